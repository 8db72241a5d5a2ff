/* Numbers of 16 bits times one factor, and another below zero; what is made has 16 bits, or 8. */
typedef struct {
    int32_t count;
    int32_t factor, below_factor;
    int16_t shift, below_shift;
    int16_t zero, low, high;
    int16_t is_narrow;
} Pieces;

static void pieces_16(const Pieces *by, const Number16 *x, void *y)
{
    for (int32_t place = 0; place < by->count; place++) {
        const int32_t here = x[place];
        const int32_t result = (here >= 0) ? scaled(here, by->factor, by->shift)
                                           : scaled(here, by->below_factor, by->below_shift);
        const Number16 number = kept_16(result + by->zero, by->low, by->high);
        if (by->is_narrow != 0) {
            ((int8_t *)y)[place] = (int8_t)number;
        } else {
            ((Number16 *)y)[place] = number;
        }
    }
}
