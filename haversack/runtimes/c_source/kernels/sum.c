/* Sums and differences of two values. Both sides are counted in one finer step before they are added. */
typedef struct {
    int32_t counts[4];                 /* numbers along each axis of the result */
    int32_t left_steps[4], right_steps[4]; /* how far apart they lie in what is read: 0 where one serves all */
    int32_t left_factor, right_factor, factor;
    int16_t left_shift, right_shift, shift;
    int16_t left_zero, right_zero;
    int16_t room; /* bits that both sides are finer by */
    int16_t zero, low, high;
    int16_t sign; /* -1 where the right side is subtracted */
} Sum;

static void add(const Sum *by, const int8_t *left, const int8_t *right, int8_t *y)
{
    const int32_t more = (int32_t)1 << by->room;
    const Ending ending = ending_of(by->factor, by->shift, by->zero, by->low, by->high);
    for (int32_t a = 0; a < by->counts[0]; a++) {
        for (int32_t b = 0; b < by->counts[1]; b++) {
            for (int32_t c = 0; c < by->counts[2]; c++) {
                const int8_t *one = left + a * by->left_steps[0] + b * by->left_steps[1] + c * by->left_steps[2];
                const int8_t *other = right + a * by->right_steps[0] + b * by->right_steps[1] + c * by->right_steps[2];
                for (int32_t d = 0; d < by->counts[3]; d++) {
                    const int32_t x = scaled((*one - by->left_zero) * more, by->left_factor, by->left_shift);
                    const int32_t z = scaled((*other - by->right_zero) * more, by->right_factor, by->right_shift);
                    *y = result_of(ending, (by->sign > 0) ? x + z : x - z);
                    y++;
                    one += by->left_steps[3];
                    other += by->right_steps[3];
                }
            }
        }
    }
}
