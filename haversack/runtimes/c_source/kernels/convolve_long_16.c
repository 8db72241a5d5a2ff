/* Convolution of numbers of 16 bits whose sums take more than 32 bits: each result by itself. */
typedef struct {
    Products products; /* without biases */
    const int64_t *biases;
    int16_t in_height, in_width, in_channels;
    int16_t out_height, out_width, out_channels;
    int16_t kernel_height, kernel_width;
    int16_t stride_height, stride_width;
    int16_t dilation_height, dilation_width;
    int16_t top, left; /* how many rows and columns of zeros lie before the map */
    int16_t groups;
} LongConvolution;

static int64_t long_sum_of(const LongConvolution *by, const Number16 *x, int32_t row, int32_t column, int32_t channel)
{
    const int32_t depth = by->in_channels / by->groups;
    int32_t place = channel * by->kernel_height * by->kernel_width * depth;
    int64_t sum = by->biases[channel];
    x += channel / (by->out_channels / by->groups) * depth;
    for (int32_t high = 0; high < by->kernel_height; high++) {
        const int32_t down = row + high * by->dilation_height;
        for (int32_t wide = 0; wide < by->kernel_width; wide++) {
            const int32_t along = column + wide * by->dilation_width;
            if ((down >= 0) && (down < by->in_height) && (along >= 0) && (along < by->in_width)) {
                const Number16 *from = x + (down * by->in_width + along) * by->in_channels;
                for (int32_t each = 0; each < depth; each++) {
                    sum += (int64_t)from[each] * weight_at(&by->products, place + each);
                }
            }
            place += depth;
        }
    }
    return sum;
}

static void convolve_long_16(const LongConvolution *by, const Number16 *x, Number16 *y)
{
    for (int32_t row = 0; row < by->out_height; row++) {
        for (int32_t column = 0; column < by->out_width; column++) {
            const int32_t down = row * by->stride_height - by->top, along = column * by->stride_width - by->left;
            for (int32_t channel = 0; channel < by->out_channels; channel++) {
                *y = long_result_of(ending_at(&by->products, channel), long_sum_of(by, x, down, along, channel));
                y++;
            }
        }
    }
}
