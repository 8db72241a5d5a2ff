/* As much of Zephyr as a sample needs to run here, once. */
#include <stdint.h>
#include <stdlib.h>

static inline uint32_t k_cycle_get_32(void)
{
    return 7U;
}

static inline uint32_t k_cyc_to_us_floor32(uint32_t cycles)
{
    return cycles;
}

static inline int32_t k_msleep(int32_t milliseconds)
{
    (void)milliseconds;
    exit(0);
}
