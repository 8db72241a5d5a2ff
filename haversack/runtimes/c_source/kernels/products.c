/* What a layer multiplies by, and how its sums become results: a channel's sum * factor / 2^(31 + shift), and a zero
   point. What the zero point of the input adds is part of the biases. */
typedef struct {
    const uint32_t *weights;
    const int32_t *biases;
    const int32_t *factors;
    const int8_t *shifts;
    int16_t zero, low, high;
    int16_t factor_each; /* 0: all channels have the first one's factor and shift */
    int16_t bits; /* of a weight: 8, or 4, which are read as sixteen times what they are */
} Products;

HELPER Ending ending_at(const Products *by, int32_t channel)
{
    const int32_t place = (by->factor_each != 0) ? channel : 0;
    return ending_of(by->factors[place], by->shifts[place], by->zero, by->low, by->high);
}
