/* Runs the network once a second, and prints what it found and how long it took. */
#include <stdint.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#include <{name}.h>

static void report(const char *name, int32_t place, int32_t number)
{{
    printk("%s: number %d is the largest, %d\n", name, (int)place, (int)number);
}}

{example}
int main(void)
{{
    for (;;) {{
        fill_inputs();
        const uint32_t before = k_cycle_get_32();
        run();
        const uint32_t took = k_cycle_get_32() - before;
        report_outputs();
        printk("%u microseconds\n", (unsigned int)k_cyc_to_us_floor32(took));
        k_msleep(1000);
    }}
    return 0;
}}
