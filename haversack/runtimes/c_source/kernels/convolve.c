/* Convolution. Patches of four pixels lie between each other, spread to 16 bits, so that a weight that is read serves
   all four. Four depths of a pixel are two words: depths 0 and 2, depths 1 and 3. */
typedef struct {
    Products products;
    int16_t in_height, in_width, in_channels;
    int16_t out_height, out_width, out_channels;
    int16_t kernel_height, kernel_width;
    int16_t stride_height, stride_width;
    int16_t dilation_height, dilation_width;
    int16_t top, left; /* how many rows and columns of zeros lie before the map */
    int16_t groups;
    int16_t in_zero;
    int16_t pointwise; /* each pixel is a patch by itself */
    int32_t words; /* of a patch: its depth / 4, rounded up */
} Convolution;

/* Where a window begins, and how many pixels are left in its row of results. */
typedef struct {
    int32_t row, column, left;
} Pixel;

enum { PIXELS = 4, PAIRS = 2 * PIXELS };

static int32_t *add_words(int32_t *patch, const uint32_t *from, int32_t words)
{
    const uint32_t *const end = from + words;
    if ((words & 1) != 0) {
        put_two(&patch, evens(*from), odds(*from));
        from++;
    }
    while (from != end) {
        const uint32_t first = from[0], second = from[1];
        put_two(&patch, evens(first), odds(first));
        put_two(&patch, evens(second), odds(second));
        from += 2;
    }
    return patch;
}

static int32_t *add_zeros(int32_t *patch, uint32_t zeros, int32_t words)
{
    const int32_t even = evens(zeros), odd = odds(zeros);
    for (int32_t word = 0; word < words; word++) {
        put_two(&patch, even, odd);
    }
    return patch;
}

/* One pixel's patch where a tap has whole words. */
static void add_patch(const Convolution *by, const int8_t *x, int32_t row, int32_t column, int32_t *patch)
{
    const int32_t depth = by->in_channels / by->groups;
    const int32_t taps = ((by->groups == 1) && (by->dilation_width == 1)) ? by->kernel_width : 1;
    const uint32_t zeros = ((uint32_t)by->in_zero & 0xFFU) * 0x01010101U;
    for (int32_t high = 0; high < by->kernel_height; high++) {
        const int32_t y = row + high * by->dilation_height;
        for (int32_t wide = 0; wide < by->kernel_width; wide += taps) {
            const int32_t from = column + wide * by->dilation_width;
            int32_t first = (from < 0) ? -from : 0;
            int32_t last = (from + taps > by->in_width) ? by->in_width - from : taps;
            if ((y < 0) || (y >= by->in_height) || (last <= first)) {
                first = taps;
                last = taps;
            }
            patch = add_zeros(patch, zeros, first * depth / 4);
            if (last > first) {
                const int8_t *source = x + (y * by->in_width + from + first) * by->in_channels;
                patch = add_words(patch, (const uint32_t *)(const void *)source, (last - first) * depth / 4);
            }
            patch = add_zeros(patch, zeros, (taps - last) * depth / 4);
        }
    }
}

/* One pixel's patch where a tap ends within a word: gathered byte by byte first. */
static void add_bytes(const Convolution *by, const int8_t *x, int32_t row, int32_t column, int32_t *patch, int32_t *line)
{
    const int32_t depth = by->in_channels / by->groups;
    int8_t *bytes = (int8_t *)line;
    for (int32_t high = 0; high < by->kernel_height; high++) {
        const int32_t y = row + high * by->dilation_height;
        for (int32_t wide = 0; wide < by->kernel_width; wide++) {
            const int32_t from = column + wide * by->dilation_width;
            if ((y < 0) || (y >= by->in_height) || (from < 0) || (from >= by->in_width)) {
                (void)memset(bytes, by->in_zero, (size_t)depth);
            } else {
                const int8_t *source = x + (y * by->in_width + from) * by->in_channels;
                for (int32_t each = 0; each < depth; each++) {
                    bytes[each] = source[each];
                }
            }
            bytes += depth;
        }
    }
    (void)add_words(patch, (const uint32_t *)(const void *)line, by->words);
}

typedef struct {
    int32_t first, second, third, fourth;
} Sums;

/* Adds the products of a word of weights with four patches, and goes on behind those. */
static inline Sums add_word_to(Sums sums, const int32_t **patches, uint32_t weights)
{
    const int32_t even = evens(weights), odd = odds(weights);
    const Two first = next_two(patches);
    sums.first = add_products(first.second, odd, add_products(first.first, even, sums.first));
    const Two second = next_two(patches);
    sums.second = add_products(second.second, odd, add_products(second.first, even, sums.second));
    const Two third = next_two(patches);
    sums.third = add_products(third.second, odd, add_products(third.first, even, sums.third));
    const Two fourth = next_two(patches);
    sums.fourth = add_products(fourth.second, odd, add_products(fourth.first, even, sums.fourth));
    return sums;
}

static inline Sums sums_of(const int32_t *patches, const uint32_t *weights, int32_t words, int32_t bias)
{
    Sums sums = {bias, bias, bias, bias};
    const uint32_t *const end = weights + words;
    if ((words & 1) != 0) {
        sums = add_word_to(sums, &patches, *weights);
        weights++;
    }
    while (weights != end) {
        sums = add_word_to(sums, &patches, weights[0]);
        sums = add_word_to(sums, &patches, weights[1]);
        weights += 2;
    }
    return sums;
}

#if HAVERSACK_MODEL_4_BITS
/* The same with eight weights a word: the low halves of its bytes are the first four. */
static inline Sums sums_of_halves(const int32_t *patches, const uint32_t *weights, int32_t words, int32_t bias)
{
    Sums sums = {0, 0, 0, 0};
    for (int32_t word = 0; word < words; word += 2) {
        sums = add_word_to(sums, &patches, (*weights << 4) & 0xF0F0F0F0U);
        sums = add_word_to(sums, &patches, *weights & 0xF0F0F0F0U);
        weights++;
    }
    sums.first = (sums.first >> 4) + bias;
    sums.second = (sums.second >> 4) + bias;
    sums.third = (sums.third >> 4) + bias;
    sums.fourth = (sums.fourth >> 4) + bias;
    return sums;
}
#endif

/* The results of up to four pixels, channel by channel. */
static void add_pixels(const Convolution *by, const int32_t *patches, int32_t group, int32_t count, int8_t *y)
{
    const Products products = by->products;
    const int32_t step = by->out_channels, channels = step / by->groups, words = by->words;
    const int32_t weight_words = (products.bits == 4) ? (words + 1) / 2 : words;
    const int32_t first = group * channels;
    const uint32_t *weights = products.weights + first * weight_words;
    for (int32_t channel = first; channel < first + channels; channel++) {
        const Ending ending = ending_at(&products, channel);
        const int32_t bias = products.biases[channel];
#if HAVERSACK_MODEL_4_BITS
        const Sums sums = (products.bits == 4) ? sums_of_halves(patches, weights, words, bias)
                                               : sums_of(patches, weights, words, bias);
#else
        const Sums sums = sums_of(patches, weights, words, bias);
#endif
        int8_t *result = y + channel;
        switch (count) {
        case PIXELS:
            result[3 * step] = result_of(ending, sums.fourth);
            /* fall through */
        case 3:
            result[2 * step] = result_of(ending, sums.third);
            /* fall through */
        case 2:
            result[step] = result_of(ending, sums.second);
            /* fall through */
        default:
            result[0] = result_of(ending, sums.first);
            break;
        }
        weights += weight_words;
    }
}

/* The patches of the next pixels, from `place` on; moves that on. */
static void add_patches(const Convolution *by, const int8_t *x, Pixel *place, int32_t count, int32_t *patches)
{
    const int32_t whole = ((by->in_channels / by->groups) & 3) == 0;
    int32_t *const line = patches + (by->words + (by->words & 1)) * PAIRS;
    for (int32_t lane = 0; lane < count; lane++) {
        if (whole == 0) {
            line[by->words - 1] = 0;
            add_bytes(by, x, place->row, place->column, patches, line);
        } else if (by->pointwise != 0) {
            const int8_t *from = x + (place->row * by->in_width + place->column) * by->in_channels;
            (void)add_words(patches, (const uint32_t *)(const void *)from, by->words);
        } else {
            add_patch(by, x, place->row, place->column, patches);
        }
        patches += 2;
        place->column += by->stride_width;
        place->left--;
        if (place->left == 0) {
            place->left = by->out_width;
            place->column = -by->left;
            place->row += by->stride_height;
        }
    }
}

static void convolve(const Convolution *by, const int8_t *x, int8_t *y, int32_t *scratch)
{
    const int32_t pixels = by->out_height * by->out_width;
    for (int32_t group = 0; group < by->groups; group++) {
        Pixel place = {-by->top, -by->left, by->out_width};
        for (int32_t pixel = 0; pixel < pixels; pixel += PIXELS) {
            const int32_t count = (pixels - pixel < PIXELS) ? pixels - pixel : PIXELS;
            add_patches(by, x + group * (by->in_channels / by->groups), &place, count, scratch);
            add_pixels(by, scratch, group, count, y + pixel * by->out_channels);
        }
    }
}
