/* A fully connected layer. Weights of four channels lie between each other, four depths at a time; those of the last
   channels, where they are not four, one after the other. */
typedef struct {
    Products products;
    int32_t channels;
    int32_t words; /* of what is read: its depth / 4, rounded up; weights behind its end are zero */
} Connection;

enum { CHANNELS = 4 };

static inline int32_t add_word(Two four, uint32_t weights, int32_t sum)
{
    return add_products(four.second, odds(weights), add_products(four.first, evens(weights), sum));
}

static const uint32_t *add_channels(const int8_t *x, const uint32_t *weights, int32_t words, int32_t sums[CHANNELS])
{
    int32_t first = 0, second = 0, third = 0, fourth = 0;
    for (const int8_t *const end = x + 4 * words; x != end; x += 4) {
        const Two four = four_at(x);
        first = add_word(four, weights[0], first);
        second = add_word(four, weights[1], second);
        third = add_word(four, weights[2], third);
        fourth = add_word(four, weights[3], fourth);
        weights += CHANNELS;
    }
    sums[0] = first;
    sums[1] = second;
    sums[2] = third;
    sums[3] = fourth;
    return weights;
}

static const uint32_t *add_one_channel(const int8_t *x, const uint32_t *weights, int32_t words, int32_t sums[CHANNELS])
{
    sums[0] = 0;
    for (int32_t word = 0; word < words; word++) {
        sums[0] = add_word(four_at(x + 4 * word), weights[word], sums[0]);
    }
    return weights + words;
}

#if HAVERSACK_MODEL_CODES
FOR_EACH_CALL int32_t add_eight(Two four, Two next, const uint8_t *codes, const int32_t *pairs, int32_t bits, int32_t sum)
{
    const uint32_t eight = eight_codes(codes, bits);
    sum = add_products(four.first, pair_at(pairs, eight, 0, bits), sum);
    sum = add_products(four.second, pair_at(pairs, eight, 1, bits), sum);
    sum = add_products(next.first, pair_at(pairs, eight, 2, bits), sum);
    return add_products(next.second, pair_at(pairs, eight, 3, bits), sum);
}

FOR_EACH_CALL const uint8_t *add_codes(const int8_t *x, const uint8_t *codes, const int32_t *pairs, int32_t words, int32_t count, int32_t sums[CHANNELS], int32_t bits)
{
    int32_t first = 0, second = 0, third = 0, fourth = 0;
    for (int32_t word = 0; word < words; word += 2) {
        const Two four = four_at(x), next = four_at(x + 4);
        first = add_eight(four, next, codes, pairs, bits, first);
        if (count == CHANNELS) {
            second = add_eight(four, next, codes + bits, pairs, bits, second);
            third = add_eight(four, next, codes + 2 * bits, pairs, bits, third);
            fourth = add_eight(four, next, codes + 3 * bits, pairs, bits, fourth);
        }
        codes += count * bits;
        x += 8;
    }
    sums[0] = first;
    sums[1] = second;
    sums[2] = third;
    sums[3] = fourth;
    return codes;
}
#endif

/* Adds up those channels, by bytes or by codes that stand for pairs. */
static const void *add_by(const Connection *by, const int8_t *x, const void *weights, const int32_t *pairs, int32_t count, int32_t sums[CHANNELS])
{
    (void)pairs;
    switch (by->products.bits) {
#if HAVERSACK_MODEL_BITS_1
    case 1:
        return add_codes(x, (const uint8_t *)weights, pairs, by->words, count, sums, 1);
#endif
#if HAVERSACK_MODEL_BITS_2
    case 2:
        return add_codes(x, (const uint8_t *)weights, pairs, by->words, count, sums, 2);
#endif
#if HAVERSACK_MODEL_BITS_3
    case 3:
        return add_codes(x, (const uint8_t *)weights, pairs, by->words, count, sums, 3);
#endif
#if HAVERSACK_MODEL_BITS_4
    case 4:
        return add_codes(x, (const uint8_t *)weights, pairs, by->words, count, sums, 4);
#endif
    default:
        return (count == CHANNELS) ? add_channels(x, (const uint32_t *)weights, by->words, sums)
                                   : add_one_channel(x, (const uint32_t *)weights, by->words, sums);
    }
}

static void connect(const Connection *by, const int8_t *x, int8_t *y, int32_t *scratch)
{
    const Products *const products = &by->products;
    const void *weights = products->weights;
    int32_t channel = 0;
    (void)scratch;
#if HAVERSACK_MODEL_CODES
    (void)add_pairs_of_values(products, scratch);
#endif
    while (channel < by->channels) {
        const int32_t count = (by->channels - channel < CHANNELS) ? 1 : CHANNELS;
        int32_t sums[CHANNELS];
        weights = add_by(by, x, weights, scratch, count, sums);
        for (int32_t each = 0; each < count; each++) {
            const Ending ending = ending_at(products, channel);
            y[channel] = result_of(ending, sums[each] + products->biases[channel]);
            channel++;
        }
    }
}
