/* Softmax of rows of numbers of 16 bits, in steps of 2^-15: exp, and one over a sum, are read between places of tables. */
typedef struct {
    const int16_t *powers, *inverses; /* at 513 places: exp over -10..0, and 1 / (1 + x) over 0..1 */
    int32_t factor;
    int16_t shift;
    int32_t rows, length;
} WideSoftmax;

static int32_t between_places(const int16_t *table, int32_t x)
{
    const int32_t at = kept_16(x, INT16_MIN, INT16_MAX), place = 256 + (at >> 7);
    return table[place] + (((table[place + 1] - table[place]) * (at & 127) + 64) >> 7);
}

static int32_t wide_power_of(const WideSoftmax *by, int32_t below)
{
    const int32_t steps = scaled(below, by->factor, by->shift);
    return between_places(by->powers, (steps < -0x10000) ? INT16_MIN : steps + INT16_MAX);
}

static void softmax_16(const WideSoftmax *by, const Number16 *x, Number16 *y)
{
    for (int32_t row = 0; row < by->rows; row++) {
        int32_t largest = INT16_MIN, total = 0, shift = 0;
        for (int32_t place = 0; place < by->length; place++) {
            largest = (x[place] > largest) ? x[place] : largest;
        }
        for (int32_t place = 0; place < by->length; place++) {
            total += wide_power_of(by, x[place] - largest);
        }
        while ((total >> shift) > 1) {
            shift++;
        }
        const int32_t fraction = (int32_t)((((int64_t)total << (30 - shift)) + (1 << 13)) >> 14) - (1 << 15) - (1 << 16);
        const int32_t inverse = between_places(by->inverses, fraction);
        for (int32_t place = 0; place < by->length; place++) {
            const int32_t product = wide_power_of(by, x[place] - largest) * inverse;
            y[place] = kept_16((product + ((int32_t)1 << (shift - 1))) >> shift, 0, INT16_MAX);
        }
        x += by->length;
        y += by->length;
    }
}
