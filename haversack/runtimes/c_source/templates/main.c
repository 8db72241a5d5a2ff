/* Reads inputs from standard input and writes outputs to standard output, sample by sample. */
#include <stdio.h>

#include "model.h"

{buffers}

int main(void)
{{
    while ({reads}) {{
        haversack_model_run({arguments});
        if ({writes}) {{
            return 1;
        }}
    }}
    return 0;
}}
