    const {kind} *const {port} = haversack_model_{port}();
    int32_t {port}_largest = 0;
    for (int32_t place = 1; place < {macro}_SIZE; place++) {{
        if ({port}[place] > {port}[{port}_largest]) {{
            {port}_largest = place;
        }}
    }}
    report("{port}", {port}_largest, {port}[{port}_largest]);
