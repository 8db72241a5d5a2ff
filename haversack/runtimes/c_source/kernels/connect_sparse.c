/* A fully connected layer by weights of which many are zero. */
typedef struct {
    Products products;
    int32_t channels;
} SparseConnection;

FOR_EACH_CALL int32_t sum_of_row(const Products *by, const int8_t *x, const uint8_t *pair, int32_t count, int32_t bits)
{
    int32_t sum = 0;
    for (const uint8_t *const end = pair + count * bytes_of_two(bits); pair != end; pair += bytes_of_two(bits)) {
        const Two weights = two_weights(by, pair, bits);
        x += pair[0] & 0xFU;
        sum += *x * weights.first;
        x += (pair[0] >> 4) + 1U;
        sum += *x * weights.second;
        x++;
    }
    return sum;
}

static void connect_sparse(const SparseConnection *by, const int8_t *x, int8_t *y)
{
    const Products *const products = &by->products;
    const uint8_t *row = (const uint8_t *)products->weights;
    for (int32_t channel = 0; channel < by->channels; channel++) {
        const int32_t length = products->lengths[channel];
        const int32_t sum = (products->bits == 8) ? sum_of_row(products, x, row, length, 8)
                                                  : sum_of_row(products, x, row, length, 4);
        y[channel] = result_of(ending_at(products, channel), sum + products->biases[channel]);
        row += length * bytes_of_two(products->bits);
    }
}
