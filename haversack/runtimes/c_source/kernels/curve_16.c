/* The logistic function or tanh of numbers of 16 bits: between two places of a table of logistic(i / 24). */
typedef struct {
    const uint16_t *table; /* in units of 2^-16 */
    int32_t factor;        /* x * factor / 2^shift counts in 1 / (3 * 4096) */
    int32_t count;
    int16_t shift;
    int16_t is_tanh;
} Curve;

static Number16 curve_at(const Curve *by, int32_t x)
{
    const int32_t bits = (by->is_tanh != 0) ? 8 : 9, one = (int32_t)1 << bits;
    const int64_t thirds = ((int64_t)x * by->factor + (INT64_C(1) << by->shift >> 1)) >> by->shift;
    const int64_t size = (thirds < 0) ? -thirds : thirds, place = size >> bits;
    int32_t share = (by->is_tanh != 0) ? 0xFFFF * one : 0x7FFF * 2 * one;
    if (place < 255) {
        const int32_t here = by->table[place], next = by->table[place + 1];
        share = here * one + (int32_t)(size & (one - 1)) * (next - here);
    }
    if (by->is_tanh != 0) {
        const int32_t half = (int32_t)1 << 23;
        return (Number16)(((thirds < 0) ? half - share + 127 : share - half + 128) >> 8);
    }
    return (Number16)(((thirds < 0) ? ((int32_t)1 << 25) - share + 511 : share + 512) >> 10);
}

static void curve_16(const Curve *by, const Number16 *x, Number16 *y)
{
    for (int32_t place = 0; place < by->count; place++) {
        y[place] = curve_at(by, x[place]);
    }
}
