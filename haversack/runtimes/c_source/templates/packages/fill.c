    {kind} *const {port} = haversack_model_{port}();
    for (int32_t place = 0; place < {macro}_SIZE; place++) {{
        {port}[place] = {number};
    }}
