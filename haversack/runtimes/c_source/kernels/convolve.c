/* Convolution. Patches of four pixels lie between each other, spread to 16 bits. Four depths of a pixel are two words:
   depths 0 and 2, depths 1 and 3. */
enum { PAIRS = 2 * PIXELS };

static int32_t *add_fours(int32_t *patch, const int8_t *from, int32_t words)
{
    const int8_t *const end = from + 4 * words;
    if ((words & 1) != 0) {
        const Two pairs = four_at(from);
        put_two(&patch, pairs.first, pairs.second);
        from += 4;
    }
    while (from != end) {
        const Two first = four_at(from), second = four_at(from + 4);
        put_two(&patch, first.first, first.second);
        put_two(&patch, second.first, second.second);
        from += 8;
    }
    return patch;
}

static int32_t *add_zeros(int32_t *patch, int32_t zeros, int32_t words)
{
    for (int32_t word = 0; word < words; word++) {
        put_two(&patch, zeros, zeros);
    }
    return patch;
}

/* One pixel's patch where a tap has whole words. */
static void add_patch(const Convolution *by, const int8_t *x, int32_t row, int32_t column, int32_t *patch)
{
    const int32_t depth = by->in_channels / by->groups;
    const int32_t taps = ((by->groups == 1) && (by->dilation_width == 1)) ? by->kernel_width : 1;
    const int32_t zeros = pair_of(by->in_zero, by->in_zero);
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
                patch = add_fours(patch, source, (last - first) * depth / 4);
            }
            patch = add_zeros(patch, zeros, (taps - last) * depth / 4);
        }
    }
}

/* One pixel's patch where a tap ends within four numbers: gathered one by one first. */
static void add_gathered(const Convolution *by, const int8_t *x, int32_t row, int32_t column, int32_t *patch, int8_t *line)
{
    const int32_t depth = by->in_channels / by->groups;
    int8_t *numbers = line;
    (void)memset(line + 4 * (by->words - 1), 0, 4 * sizeof(*line));
    for (int32_t high = 0; high < by->kernel_height; high++) {
        const int32_t y = row + high * by->dilation_height;
        for (int32_t wide = 0; wide < by->kernel_width; wide++) {
            const int32_t from = column + wide * by->dilation_width;
            if ((y < 0) || (y >= by->in_height) || (from < 0) || (from >= by->in_width)) {
                (void)memset(numbers, by->in_zero, (size_t)depth * sizeof(*numbers));
            } else {
                const int8_t *source = x + (y * by->in_width + from) * by->in_channels;
                for (int32_t each = 0; each < depth; each++) {
                    numbers[each] = source[each];
                }
            }
            numbers += depth;
        }
    }
    (void)add_fours(patch, line, by->words);
}

/* Adds the products of two pairs of weights with four patches, and goes on behind those. */
static inline Sums add_pairs_to(Sums sums, const int32_t **patches, int32_t even, int32_t odd)
{
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

static inline Sums add_word_to(Sums sums, const int32_t **patches, uint32_t weights)
{
    return add_pairs_to(sums, patches, evens(weights), odds(weights));
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

#if HAVERSACK_MODEL_CODES
/* The same of codes of so many bits, eight depths at a time. */
FOR_EACH_CALL Sums sums_of_codes(const int32_t *patches, const void *weights, int32_t words, int32_t bias, const int32_t *pairs, int32_t bits)
{
    Sums sums = {bias, bias, bias, bias};
    const uint8_t *at = (const uint8_t *)weights;
    const uint8_t *const end = at + (words + 1) / 2 * bits;
    while (at != end) {
        const uint32_t codes = eight_codes(at, bits);
        sums = add_pairs_to(sums, &patches, pair_at(pairs, codes, 0, bits), pair_at(pairs, codes, 1, bits));
        sums = add_pairs_to(sums, &patches, pair_at(pairs, codes, 2, bits), pair_at(pairs, codes, 3, bits));
        at += bits;
    }
    return sums;
}
#endif

/* Those of a channel whose weights are bytes, or codes that stand for pairs. */
static inline Sums sums_by(const Products *by, const int32_t *patches, const uint8_t *weights, int32_t words, int32_t bias, const int32_t *pairs)
{
    (void)pairs;
    switch (by->bits) {
#if HAVERSACK_MODEL_BITS_1
    case 1:
        return sums_of_codes(patches, weights, words, bias, pairs, 1);
#endif
#if HAVERSACK_MODEL_BITS_2
    case 2:
        return sums_of_codes(patches, weights, words, bias, pairs, 2);
#endif
#if HAVERSACK_MODEL_BITS_3
    case 3:
        return sums_of_codes(patches, weights, words, bias, pairs, 3);
#endif
#if HAVERSACK_MODEL_BITS_4
    case 4:
        return sums_of_codes(patches, weights, words, bias, pairs, 4);
#endif
    default:
        return sums_of(patches, (const uint32_t *)(const void *)weights, words, bias);
    }
}

/* The results of up to four pixels, channel by channel. */
static void add_pixels(const Convolution *by, const int32_t *patches, int32_t group, int32_t count, int8_t *y, const int32_t *pairs)
{
    const Products products = by->products;
    const int32_t step = by->out_channels, channels = step / by->groups, words = by->words;
    const int32_t size = (products.bits == 8) ? 4 * words : (words + 1) / 2 * products.bits;
    const int32_t first = group * channels;
    const uint8_t *weights = (const uint8_t *)products.weights + first * size;
    for (int32_t channel = first; channel < first + channels; channel++) {
        const Ending ending = ending_at(&products, channel);
        const Sums sums = sums_by(&products, patches, weights, words, products.biases[channel], pairs);
        put_results(sums, ending, count, step, y + channel);
        weights += size;
    }
}

/* The patches of the next pixels, from `place` on; moves that on. */
static void add_patches(const Convolution *by, const int8_t *x, Pixel *place, int32_t count, int32_t *patches)
{
    const int32_t whole = ((by->in_channels / by->groups) & 3) == 0;
    int8_t *const line = (int8_t *)(patches + (by->words + (by->words & 1)) * PAIRS);
    for (int32_t lane = 0; lane < count; lane++) {
        if (whole == 0) {
            add_gathered(by, x, place->row, place->column, patches, line);
        } else if (by->pointwise != 0) {
            const int8_t *from = x + (place->row * by->in_width + place->column) * by->in_channels;
            (void)add_fours(patches, from, by->words);
        } else {
            add_patch(by, x, place->row, place->column, patches);
        }
        patches += 2;
        next_pixel(by, place);
    }
}

static void convolve(const Convolution *by, const int8_t *x, int8_t *y, int32_t *scratch)
{
    const int32_t pixels = by->out_height * by->out_width;
    int32_t *patches = scratch;
#if HAVERSACK_MODEL_CODES
    patches = add_pairs_of_values(&by->products, scratch);
#endif
    (void)memset(patches, 0, (uint32_t)(by->words + (by->words & 1)) * PAIRS * sizeof(int32_t));
    for (int32_t group = 0; group < by->groups; group++) {
        Pixel place = {-by->top, -by->left, by->out_width};
        for (int32_t pixel = 0; pixel < pixels; pixel += PIXELS) {
            const int32_t count = (pixels - pixel < PIXELS) ? pixels - pixel : PIXELS;
            add_patches(by, x + group * (by->in_channels / by->groups), &place, count, patches);
            add_pixels(by, patches, group, count, y + pixel * by->out_channels, scratch);
        }
    }
}
