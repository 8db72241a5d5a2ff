/* The mean or the largest number along some axes. */
typedef struct {
    int32_t counts[3], steps[3];   /* of the axes that stay */
    int32_t inner[3], strides[3]; /* of those that go */
    int32_t factor;
    int16_t shift;
    int16_t in_zero, zero, low, high;
    int16_t mean; /* 0: the largest */
} Reduction;

static int32_t reduced(const Reduction *by, const int8_t *x)
{
    int32_t sum = 0, largest = INT8_MIN;
    for (int32_t a = 0; a < by->inner[0]; a++) {
        for (int32_t b = 0; b < by->inner[1]; b++) {
            for (int32_t c = 0; c < by->inner[2]; c++) {
                const int32_t here = x[a * by->strides[0] + b * by->strides[1] + c * by->strides[2]];
                sum += here - by->in_zero;
                largest = (here > largest) ? here : largest;
            }
        }
    }
    return (by->mean != 0) ? result_of(ending_of(by->factor, by->shift, by->zero, by->low, by->high), sum) : largest;
}

static void reduce(const Reduction *by, const int8_t *x, int8_t *y)
{
    for (int32_t a = 0; a < by->counts[0]; a++) {
        for (int32_t b = 0; b < by->counts[1]; b++) {
            for (int32_t c = 0; c < by->counts[2]; c++) {
                const int8_t *from = x + a * by->steps[0] + b * by->steps[1] + c * by->steps[2];
                *y = (int8_t)reduced(by, from);
                y++;
            }
        }
    }
}
