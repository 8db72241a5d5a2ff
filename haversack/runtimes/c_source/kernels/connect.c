/* A fully connected layer. Weights of four channels lie between each other, four depths at a time; those of the last
   channels, where they are not four, one after the other. */
typedef struct {
    Products products;
    int32_t channels;
    int32_t words; /* of what is read: its depth / 4, rounded up; weights behind its end are zero */
} Connection;

enum { CHANNELS = 4 };

static inline int32_t add_word(int32_t even, int32_t odd, uint32_t weights, int32_t sum)
{
    return add_products(odd, odds(weights), add_products(even, evens(weights), sum));
}

static const uint32_t *add_channels(const uint32_t *x, const uint32_t *weights, int32_t words, int32_t sums[CHANNELS])
{
    int32_t first = 0, second = 0, third = 0, fourth = 0;
    for (int32_t word = 0; word < words; word++) {
        const int32_t even = evens(x[word]), odd = odds(x[word]);
        first = add_word(even, odd, weights[0], first);
        second = add_word(even, odd, weights[1], second);
        third = add_word(even, odd, weights[2], third);
        fourth = add_word(even, odd, weights[3], fourth);
        weights += CHANNELS;
    }
    sums[0] = first;
    sums[1] = second;
    sums[2] = third;
    sums[3] = fourth;
    return weights;
}

static const uint32_t *add_one_channel(const uint32_t *x, const uint32_t *weights, int32_t words, int32_t sums[CHANNELS])
{
    sums[0] = 0;
    for (int32_t word = 0; word < words; word++) {
        sums[0] = add_word(evens(x[word]), odds(x[word]), weights[word], sums[0]);
    }
    return weights + words;
}

#if HAVERSACK_MODEL_4_BITS
/* Eight weights a word: the low halves of its bytes belong to the first four depths. Sums are sixteen times as large. */
static const uint32_t *add_halves(const uint32_t *x, const uint32_t *weights, int32_t words, int32_t count, int32_t sums[CHANNELS])
{
    for (int32_t channel = 0; channel < count; channel++) {
        sums[channel] = 0;
    }
    for (int32_t word = 0; word < words; word += 2) {
        for (int32_t channel = 0; channel < count; channel++) {
            const uint32_t low = (*weights << 4) & 0xF0F0F0F0U, high = *weights & 0xF0F0F0F0U;
            sums[channel] = add_word(evens(x[word]), odds(x[word]), low, sums[channel]);
            sums[channel] = add_word(evens(x[word + 1]), odds(x[word + 1]), high, sums[channel]);
            weights++;
        }
    }
    for (int32_t channel = 0; channel < count; channel++) {
        sums[channel] >>= 4;
    }
    return weights;
}
#endif

static void connect(const Connection *by, const int8_t *x, int8_t *y)
{
    const Products *const products = &by->products;
    const uint32_t *const from = (const uint32_t *)(const void *)x;
    const uint32_t *weights = products->weights;
    int32_t channel = 0;
    while (channel < by->channels) {
        const int32_t count = (by->channels - channel < CHANNELS) ? 1 : CHANNELS;
        int32_t sums[CHANNELS];
#if HAVERSACK_MODEL_4_BITS
        if (products->bits == 4) {
            weights = add_halves(from, weights, by->words, count, sums);
        } else
#endif
        {
            weights = (count == CHANNELS) ? add_channels(from, weights, by->words, sums)
                                          : add_one_channel(from, weights, by->words, sums);
        }
        for (int32_t each = 0; each < count; each++) {
            const Ending ending = ending_at(products, channel);
            y[channel] = result_of(ending, sums[each] + products->biases[channel]);
            channel++;
        }
    }
}
