/* Depthwise convolution, a channel at a time. Some rows of its map are spread to 16 bits, two columns a word, the words
   of the same columns one below the other: what lies under a window is read in a few loads. */
typedef struct {
    Products products; /* weights channel by channel, in rows */
    int16_t in_height, in_width, in_channels;
    int16_t out_height, out_width, out_channels;
    int16_t kernel_height, kernel_width; /* the width counts columns that dilation leaves out: their weights are zero */
    int16_t stride_height, stride_width;
    int16_t dilation_height;
    int16_t top, left; /* how many rows and columns of zeros lie before the map */
    int16_t in_zero;
    int16_t rows;  /* of the map that are there at a time */
    int16_t pitch; /* words of a row */
    int16_t is_3_by_3;
} Depthwise;

/* Twice a channel's weights as pairs, for windows that begin at an even column, and behind them for those at an odd one. */
static void add_pairs(const Depthwise *by, int32_t channel, int32_t *pairs)
{
    const int32_t width = by->kernel_width, count = width / 2 + 1;
    const int32_t odd = by->kernel_height * count;
    int32_t place = channel * by->kernel_height * width;
    for (int32_t row = 0; row < by->kernel_height; row++) {
        int32_t before = 0;
        for (int32_t pair = 0; pair < count; pair++) {
            const int32_t column = 2 * pair;
            const int32_t here = (column < width) ? 2 * weight_at(&by->products, place + column) : 0;
            const int32_t behind = (column + 1 < width) ? 2 * weight_at(&by->products, place + column + 1) : 0;
            pairs[pair] = pair_of(here, behind);
            pairs[odd + pair] = pair_of(before, here);
            before = behind;
        }
        pairs += count;
        place += width;
    }
}

/* Rows of one channel from `row` on, with the zeros beside them; the first of them below `words`. */
static void add_rows(const Depthwise *by, const int8_t *x, int32_t row, int32_t count, int32_t *words)
{
    const int32_t step = by->in_channels, rows = by->rows, zero = by->in_zero, left = by->left;
    const int32_t height = by->in_height, width = by->in_width, pitch = by->pitch, zeros = pair_of(zero, zero);
    const int32_t columns = (width < 2 * pitch - left) ? width : 2 * pitch - left;
    for (const int32_t last = row + count; row < last; row++) {
        int32_t *word = words;
        if ((row >= 0) && (row < height)) {
            const int8_t *from = x + row * width * step;
            int32_t more = columns;
            for (int32_t column = 1; column < left; column += 2) {
                *word = zeros;
                word += rows;
            }
            if ((left & 1) != 0) {
                *word = pair_of(zero, *from);
                word += rows;
                from += step;
                more--;
            }
            for (more -= 2; more >= 0; more -= 2) {
                *word = pair_of(from[0], from[step]);
                word += rows;
                from += 2 * step;
            }
            if ((more & 1) != 0) {
                *word = pair_of(*from, zero);
                word += rows;
            }
        }
        for (const int32_t *const end = words + pitch * rows; word != end; word += rows) {
            *word = zeros;
        }
        words++;
    }
}

#if HAVERSACK_MODEL_3_BY_3
/* Rows of results of a 3 x 3 window: at a stride of one two at a time, which share what they read. */
static void add_results_3_by_3(const Depthwise *by, Ending ending, int32_t bias, const int32_t *words, int32_t count, int8_t *y)
{
    const int32_t rows = by->rows, step = by->out_channels, stride = by->stride_height;
    const int32_t pairs = (by->stride_width == 1) ? by->out_width / 2 : 0;
    const int32_t single = (by->stride_width == 1) ? by->out_width & 1 : by->out_width;
    const int32_t *const weights = words + rows * by->pitch;
    const int32_t a = weights[0], b = weights[7]; /* the first two weights of a row, and the last two */
    const int32_t c = weights[2], d = weights[9];
    const int32_t e = weights[4], f = weights[11];
    for (; count > 0; count--) {
        const int32_t *word = words;
        for (int32_t left = pairs; left > 0; left--) {
            const Two first = two_at(word);
            const int32_t third = word[2];
            word += rows;
            int32_t one = add_products(third, e, add_products(first.second, c, add_products(first.first, a, bias)));
            int32_t two = add_high_low(third, e, add_high_low(first.second, c, add_high_low(first.first, a, bias)));
            const Two last = two_at(word);
            one = add_low_high(word[2], f, add_low_high(last.second, d, add_low_high(last.first, b, one)));
            two = add_products(word[2], f, add_products(last.second, d, add_products(last.first, b, two)));
            *y = result_of_twice(ending, one);
            y += step;
            *y = result_of_twice(ending, two);
            y += step;
        }
        for (int32_t left = single; left > 0; left--) {
            const Two first = two_at(word);
            int32_t one = add_products(word[2], e, add_products(first.second, c, add_products(first.first, a, bias)));
            word += rows;
            const Two last = two_at(word);
            one = add_low_high(word[2], f, add_low_high(last.second, d, add_low_high(last.first, b, one)));
            *y = result_of_twice(ending, one);
            y += step;
        }
        words += stride;
    }
}
#endif

#if HAVERSACK_MODEL_OTHER_WINDOWS
/* Rows of results of any window. */
static void add_results(const Depthwise *by, Ending ending, int32_t bias, const int32_t *words, int32_t count, int8_t *y)
{
    const int32_t pairs = by->kernel_width / 2 + 1, rows = by->rows, height = by->kernel_height;
    const int32_t *const even = words + rows * by->pitch, *const odd = even + height * pairs;
    for (; count > 0; count--) {
        for (int32_t column = 0; column < by->out_width; column++) {
            const int32_t from = column * by->stride_width;
            const int32_t *weights = ((from & 1) != 0) ? odd : even;
            const int32_t *window = words + (from / 2) * rows;
            int32_t sum = bias;
            for (int32_t row = 0; row < height; row++) {
                const int32_t *word = window;
                for (int32_t pair = 0; pair < pairs; pair++) {
                    sum = add_products(*word, *weights, sum);
                    word += rows;
                    weights++;
                }
                window += by->dilation_height;
            }
            *y = result_of_twice(ending, sum);
            y += by->out_channels;
        }
        words += by->stride_height;
    }
}
#endif

/* Results of one channel: as many rows as what is there at a time is good for. */
static void add_channel(const Depthwise *by, int32_t channel, const int8_t *x, int8_t *y, int32_t *words)
{
    const int32_t stride = by->stride_height, rows = by->rows;
    const int32_t reach = (by->kernel_height - 1) * by->dilation_height + 1, whole = (rows - reach) / stride + 1;
    const Ending ending = ending_at(&by->products, channel);
    const int32_t bias = 2 * by->products.biases[channel];
    int32_t same = 0;
    for (int32_t row = 0; row < by->out_height; row += whole) {
        const int32_t more = by->out_height - row, count = (more < whole) ? more : whole;
        const int32_t wanted = (count - 1) * stride + reach;
        add_rows(by, x, row * stride - by->top + same, wanted - same, words + same);
#if HAVERSACK_MODEL_3_BY_3 && HAVERSACK_MODEL_OTHER_WINDOWS
        if (by->is_3_by_3 != 0) {
            add_results_3_by_3(by, ending, bias, words, count, y);
        } else {
            add_results(by, ending, bias, words, count, y);
        }
#elif HAVERSACK_MODEL_3_BY_3
        add_results_3_by_3(by, ending, bias, words, count, y);
#else
        add_results(by, ending, bias, words, count, y);
#endif
        y += count * by->out_width * by->out_channels;
        same = (reach > stride) ? reach - stride : 0;
        for (int32_t pair = 0; (pair < by->pitch) && (more > whole); pair++) {
            int32_t *const column = words + pair * rows;
            for (int32_t each = 0; each < same; each++) {
                column[each] = column[whole * stride + each];
            }
        }
    }
}

static void convolve_depthwise(const Depthwise *by, const int8_t *x, int8_t *y, int32_t *scratch)
{
    const int32_t multiplier = by->out_channels / by->in_channels;
    for (int32_t channel = 0; channel < by->out_channels; channel++) {
        add_pairs(by, channel, scratch + by->rows * by->pitch);
        add_channel(by, channel, x + channel / multiplier, y + channel, scratch);
    }
}
