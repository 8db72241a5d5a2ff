/* Transposed convolution: each result gathers what the inputs under its window add to it. */
typedef struct {
    Products products; /* weights (out, height, width, in) */
    int16_t in_height, in_width, in_channels;
    int16_t out_height, out_width, out_channels;
    int16_t kernel_height, kernel_width;
    int16_t stride_height, stride_width;
    int16_t top, left; /* how many rows and columns of the whole result are cut off */
    int16_t in_zero;
} Transposed;

/* The row or column that adds to result `place` by tap `tap`; -1 where there is none. */
static inline int32_t source_of(int32_t place, int32_t tap, int32_t stride, int32_t size)
{
    const int32_t from = place - tap;
    return ((from >= 0) && (from % stride == 0) && (from / stride < size)) ? from / stride : -1;
}

static int32_t sum_of(const Transposed *by, const int8_t *x, int32_t row, int32_t column, int32_t channel)
{
    int32_t sum = by->products.biases[channel];
    int32_t place = channel * by->kernel_height * by->kernel_width * by->in_channels;
    for (int32_t high = 0; high < by->kernel_height; high++) {
        const int32_t from = source_of(row + by->top, high, by->stride_height, by->in_height);
        for (int32_t wide = 0; wide < by->kernel_width; wide++) {
            const int32_t at = source_of(column + by->left, wide, by->stride_width, by->in_width);
            if ((from >= 0) && (at >= 0)) {
                const int8_t *source = x + (from * by->in_width + at) * by->in_channels;
                for (int32_t depth = 0; depth < by->in_channels; depth++) {
                    sum += (source[depth] - by->in_zero) * weight_at(&by->products, place + depth);
                }
            }
            place += by->in_channels;
        }
    }
    return sum;
}

static void convolve_transposed(const Transposed *by, const int8_t *x, int8_t *y)
{
    for (int32_t row = 0; row < by->out_height; row++) {
        for (int32_t column = 0; column < by->out_width; column++) {
            for (int32_t channel = 0; channel < by->out_channels; channel++) {
                *y = result_of(ending_at(&by->products, channel), sum_of(by, x, row, column, channel));
                y++;
            }
        }
    }
}
