/* Starts a core, and halts before and after each run: whoever runs it has put inputs where `halt` says, and finds
   outputs there. */
#include "model.h"

extern uint32_t data_start[], data_end[], data_stored[], bss_start[], bss_end[], stack_top[];

#define PAINT 0xA5A5A5A5U
#define OWN_FRAMES 16 /* words below the stack pointer that are in use while the rest is painted */

void start(void);
void halt(const void *values, const uint32_t *end);
void reset(void);

#if defined(__riscv)
__attribute__((naked, section(".reset"))) void reset(void)
{
    __asm__("la sp, stack_top\n j start");
}

#elif defined(__aarch64__)
/* Also lets it use the vector registers, which compilers do. */
__asm__(".section .reset, \"ax\"\n"
        ".global reset\n"
        "reset: mrs x0, cpacr_el1\n orr x0, x0, #0x300000\n msr cpacr_el1, x0\n isb\n"
        "ldr x0, =stack_top\n mov sp, x0\n b start\n .ltorg\n"
        ".text\n");

#else
__attribute__((naked, section(".reset"))) void reset(void)
{
    __asm__("ldr r0, =stack_top\n mov sp, r0\n ldr r0, =start\n bx r0\n .ltorg");
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {stack_top, (const void *)reset};
#endif

/* Where a run is stopped. */
__attribute__((noinline, section(".halt"))) void halt(const void *values, const uint32_t *end)
{
    __asm__ volatile("" : : "r"(values), "r"(end));
}

__attribute__((used)) void start(void)
{
    const uint32_t *from = data_stored;
    uint32_t here = 0;
    for (uint32_t *to = data_start; to < data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = bss_start; to < bss_end; to++) {
        *to = 0;
    }
    for (volatile uint32_t *to = bss_end; to < &here - OWN_FRAMES; to++) {
        *to = PAINT;
    }
    for (;;) {
        halt(HAVERSACK_MODEL_FIRST, bss_end);
        HAVERSACK_MODEL_RUN;
    }
}
