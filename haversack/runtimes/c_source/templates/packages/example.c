{sources}
{quantize}/* Fills what the network reads, where it reads it: nothing is copied. It works in there, so that each run needs it anew. */
static void fill_inputs(void)
{{
{fills}
}}

static void run(void)
{{
    haversack_model_run({arguments});
}}

/* Tells of each output which of its numbers is the largest, such as the class. */
static void report_outputs(void)
{{
{reports}
}}
