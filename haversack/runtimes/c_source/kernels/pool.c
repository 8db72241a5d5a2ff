/* The largest or the mean number under a window; what lies beside the map does not count. */
typedef struct {
    int16_t in_height, in_width, channels;
    int16_t out_height, out_width;
    int16_t kernel_height, kernel_width;
    int16_t stride_height, stride_width;
    int16_t top, left; /* how many rows and columns lie before the map */
    int16_t low, high;
    int16_t mean; /* 0: the largest */
} Pool;

static int32_t pooled(const Pool *by, const int8_t *x, int32_t first_row, int32_t first_column)
{
    int32_t sum = 0, largest = INT8_MIN, count = 0;
    for (int32_t row = first_row; row < first_row + by->kernel_height; row++) {
        for (int32_t column = first_column; column < first_column + by->kernel_width; column++) {
            if ((row >= 0) && (row < by->in_height) && (column >= 0) && (column < by->in_width)) {
                const int32_t here = x[(row * by->in_width + column) * by->channels];
                sum += here;
                largest = (here > largest) ? here : largest;
                count++;
            }
        }
    }
    if (by->mean == 0) {
        return largest;
    }
    return (sum < 0) ? -((count / 2 - sum) / count) : (sum + count / 2) / count;
}

static void pool(const Pool *by, const int8_t *x, int8_t *y)
{
    for (int32_t row = 0; row < by->out_height; row++) {
        for (int32_t column = 0; column < by->out_width; column++) {
            for (int32_t channel = 0; channel < by->channels; channel++) {
                const int32_t first_row = row * by->stride_height - by->top;
                const int32_t first_column = column * by->stride_width - by->left;
                *y = (int8_t)kept(pooled(by, x + channel, first_row, first_column), by->low, by->high);
                y++;
            }
        }
    }
}
