/* Runs the network once, and prints what it found and how long it took. */
#include <stdint.h>
#include <stdio.h>

#include "esp_timer.h"

#include <{name}.h>

static void report(const char *name, int32_t place, int32_t number)
{{
    (void)printf("%s: number %d is the largest, %d\n", name, (int)place, (int)number);
}}

{example}
void app_main(void);

void app_main(void)
{{
    fill_inputs();
    const int64_t before = esp_timer_get_time();
    run();
    const int64_t took = esp_timer_get_time() - before;
    report_outputs();
    (void)printf("%d microseconds\n", (int)took);
}}
