/* Convolution by weights of which many are zero. Each depth of the patches of four pixels is two words of two pixels. */
static const int8_t *tap_at(const Convolution *by, const int8_t *x, int32_t row, int32_t column, const int8_t *zeros)
{
    const int32_t inside = (row >= 0) && (row < by->in_height) && (column >= 0) && (column < by->in_width);
    return (inside != 0) ? x + (row * by->in_width + column) * by->in_channels : zeros;
}

/* So many depths of a tap of two pixels: four at a time where words hold whole fours. */
static int32_t *add_depths(const int8_t *first, const int8_t *second, int32_t depths, int32_t *patches)
{
    if ((depths & 3) == 0) {
        for (const int8_t *const end = first + depths; first != end; first += 4) {
            const Two one = four_at(first), other = four_at(second);
            patches[0] = pair_of(one.first, other.first);
            patches[2] = pair_of(one.second, other.second);
            patches[4] = high_pair_of(one.first, other.first);
            patches[6] = high_pair_of(one.second, other.second);
            second += 4;
            patches += 8;
        }
        return patches;
    }
    for (int32_t depth = 0; depth < depths; depth++) {
        *patches = pair_of(first[depth], second[depth]);
        patches += 2;
    }
    return patches;
}

static void add_two_patches(const Convolution *by, const int8_t *x, Pixel one, Pixel other, const int8_t *zeros, int32_t *patches)
{
    for (int32_t high = 0; high < by->kernel_height; high++) {
        for (int32_t wide = 0; wide < by->kernel_width; wide++) {
            const int32_t down = high * by->dilation_height, along = wide * by->dilation_width;
            const int8_t *first = tap_at(by, x, one.row + down, one.column + along, zeros);
            const int8_t *second = tap_at(by, x, other.row + down, other.column + along, zeros);
            patches = add_depths(first, second, by->in_channels, patches);
        }
    }
}

/* The patches of the next pixels; the last ones again where they are fewer than four. */
static void add_four_patches(const Convolution *by, const int8_t *x, Pixel *place, int32_t count, const int8_t *zeros, int32_t *patches)
{
    for (int32_t pixel = 0; pixel < count; pixel += 2) {
        const Pixel one = *place;
        next_pixel(by, place);
        const Pixel other = (pixel + 1 < count) ? *place : one;
        if (pixel + 1 < count) {
            next_pixel(by, place);
        }
        add_two_patches(by, x, one, other, zeros, patches + pixel / 2);
    }
}

HELPER Sums add_times(Sums sums, Two pixels, int32_t weight)
{
    sums.first = add_low_low(pixels.first, weight, sums.first);
    sums.second = add_high_low(pixels.first, weight, sums.second);
    sums.third = add_low_low(pixels.second, weight, sums.third);
    sums.fourth = add_high_low(pixels.second, weight, sums.fourth);
    return sums;
}

FOR_EACH_CALL Sums sums_of_row(const Products *by, const int32_t *patches, const uint8_t *pair, int32_t count, int32_t bias, int32_t bits)
{
    Sums sums = {bias, bias, bias, bias};
    for (const uint8_t *const end = pair + count * bytes_of_two(bits); pair != end; pair += bytes_of_two(bits)) {
        const Two weights = two_weights(by, pair, bits);
        patches += 2U * (pair[0] & 0xFU);
        sums = add_times(sums, next_two(&patches), weights.first);
        patches += 2U * (pair[0] >> 4);
        sums = add_times(sums, next_two(&patches), weights.second);
    }
    return sums;
}

static void convolve_sparse(const Convolution *by, const int8_t *x, int8_t *y, int32_t *scratch)
{
    const Products products = by->products;
    const int32_t pixels = by->out_height * by->out_width, step = by->out_channels;
    int8_t *const zeros = (int8_t *)scratch;
    int32_t *const patches = scratch + ((size_t)by->in_channels * sizeof(*zeros) + 3U) / 4U;
    Pixel place = {-by->top, -by->left, by->out_width};
    (void)memset(zeros, by->in_zero, (size_t)by->in_channels * sizeof(*zeros));
    (void)memset(patches, 0, (uint32_t)(by->words + 1) * 8U * sizeof(int32_t));
    for (int32_t pixel = 0; pixel < pixels; pixel += PIXELS) {
        const int32_t count = (pixels - pixel < PIXELS) ? pixels - pixel : PIXELS;
        const uint8_t *row = (const uint8_t *)products.weights;
        add_four_patches(by, x, &place, count, zeros, patches);
        for (int32_t channel = 0; channel < step; channel++) {
            const int32_t length = products.lengths[channel], bias = products.biases[channel];
            const Sums sums = (products.bits == 8) ? sums_of_row(&products, patches, row, length, bias, 8)
                                                   : sums_of_row(&products, patches, row, length, bias, 4);
            put_results(sums, ending_at(&products, channel), count, step, y + channel);
            row += length * bytes_of_two(products.bits);
        }
        y += PIXELS * step;
    }
}
