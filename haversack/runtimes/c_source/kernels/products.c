/* What a layer multiplies by, and how its sums become results: a channel's sum * factor / 2^(31 + shift), and a zero
   point. What the zero point of the input adds is part of the biases. */
typedef struct {
    const void *weights;
    const int32_t *biases;
    const int32_t *factors;
    const int8_t *shifts;
    int16_t zero, low, high;
    int16_t factor_each; /* 0: all channels have the first one's factor and shift */
    int16_t bits; /* of a weight: 8, or fewer, which are its place among the values */
    int16_t wide; /* endings of numbers of 16 bits */
#if HAVERSACK_MODEL_CODES || HAVERSACK_MODEL_SPARSE
    const int8_t *values;
#endif
#if HAVERSACK_MODEL_SPARSE
    const uint16_t *lengths; /* pairs of a channel's weights that are not zero */
#endif
} Products;

HELPER Ending ending_at(const Products *by, int32_t channel)
{
    const int32_t place = (by->factor_each != 0) ? channel : 0;
#if HAVERSACK_MODEL_16_BITS
    if (by->wide != 0) {
        const Ending ending = {by->factors[place], by->shifts[place], 0, by->low, by->high, 0, 1};
        return ending;
    }
#endif
    return ending_of(by->factors[place], by->shifts[place], by->zero, by->low, by->high);
}

/* One weight, where rows lie one after the other. */
HELPER int32_t weight_at(const Products *by, int32_t place)
{
    const uint8_t *const bytes = (const uint8_t *)by->weights;
#if HAVERSACK_MODEL_CODES
    if (by->bits < 8) {
        const int32_t bit = place * by->bits;
        const int32_t both = bytes[bit >> 3] | (bytes[(bit >> 3) + 1] << 8);
        return by->values[(both >> (bit & 7)) & ((1 << by->bits) - 1)];
    }
#endif
    return (int8_t)bytes[place];
}

#if HAVERSACK_MODEL_CODES
/* What each two codes stand for, the first code lowest, where they have fewer bits than a byte; the place behind it. */
HELPER int32_t *add_pairs_of_values(const Products *by, int32_t *pairs)
{
    const int32_t count = (by->bits < 8) ? (int32_t)1 << by->bits : 0;
    for (int32_t high = 0; high < count; high++) {
        for (int32_t low = 0; low < count; low++) {
            *pairs = pair_of(by->values[low], by->values[high]);
            pairs++;
        }
    }
    return pairs;
}

/* Eight codes, the first lowest: of depths 0, 2, 1, 3, 4, 6, 5, 7. */
HELPER uint32_t eight_codes(const void *codes, int32_t bits)
{
    if (bits == 4) {
        return *(const uint32_t *)codes;
    }
    if (bits == 2) {
        return *(const uint16_t *)codes;
    }
    const uint8_t *const bytes = (const uint8_t *)codes;
    return (bits == 1) ? bytes[0] : bytes[0] | ((uint32_t)bytes[1] << 8) | ((uint32_t)bytes[2] << 16);
}

/* The pair that two of them stand for: the first two, or others. */
HELPER int32_t pair_at(const int32_t *pairs, uint32_t codes, int32_t place, int32_t bits)
{
    return pairs[(codes >> (2 * place * bits)) & ((1U << (2 * bits)) - 1U)];
}
#endif
