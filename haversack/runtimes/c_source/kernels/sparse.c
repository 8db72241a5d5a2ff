/* Weights of which many are zero. A channel's row is pairs of the others: the first byte of a pair says how many zeros
   lie before the first and, in its upper half, before the second one; their two bytes, or a byte of two codes, follow. */
HELPER int32_t bytes_of_two(int32_t bits)
{
    return 1 + bits / 4;
}

HELPER Two two_weights(const Products *by, const uint8_t *pair, int32_t bits)
{
    if (bits == 8) {
        const Two bytes = {(int8_t)pair[1], (int8_t)pair[2]};
        return bytes;
    }
    const Two codes = {by->values[pair[1] & 0xFU], by->values[pair[1] >> 4]};
    return codes;
}
