/* Softmax of rows, in steps of 1 / 256: exp of each difference to the largest number is looked up. */
typedef struct {
    const int32_t *powers; /* exp(-difference * step) in units of 2^-31; 0 behind the last one */
    int32_t count;         /* of powers */
    int32_t rows, length;
} Softmax;

static inline int32_t doubled_high(int32_t x, int32_t y)
{
    return (int32_t)(((int64_t)x * y + (INT64_C(1) << 30)) >> 31);
}

/* 1 / (1 + x) of a fraction 0 <= x < 1, in units of 2^-31: three Newton-Raphson steps from 48 / 17 - 32 / 17 d. */
static int32_t one_over_one_plus(int32_t x)
{
    const int32_t half = (int32_t)(((int64_t)x + INT64_C(0x80000000)) >> 1);
    int32_t result = 1515870810 + doubled_high(half, -1010580540);
    for (int32_t step = 0; step < 3; step++) {
        const int32_t error = (INT32_C(1) << 29) - doubled_high(half, result);
        result += doubled_high(result, error) * 4;
    }
    return (result > 0x3FFFFFFF) ? INT32_MAX : result * 2;
}

static int32_t power_of(const Softmax *by, int32_t difference)
{
    return (difference < by->count) ? by->powers[difference] : 0;
}

static void softmax(const Softmax *by, const int8_t *x, int8_t *y)
{
    for (int32_t row = 0; row < by->rows; row++) {
        int32_t largest = -128, total = 0, zeros = 0;
        for (int32_t place = 0; place < by->length; place++) {
            largest = (x[place] > largest) ? x[place] : largest;
        }
        for (int32_t place = 0; place < by->length; place++) {
            const int32_t power = power_of(by, largest - x[place]);
            total += (power >> 12) + ((power >> 11) & 1);
        }
        uint32_t fraction = (uint32_t)total;
        while ((fraction & 0x80000000U) == 0U) {
            fraction <<= 1;
            zeros++;
        }
        const int32_t factor = one_over_one_plus((int32_t)(fraction & 0x7FFFFFFFU));
        for (int32_t place = 0; place < by->length; place++) {
            const int64_t share = doubled_high(power_of(by, largest - x[place]), factor);
            y[place] = (int8_t)in_8_bits((int32_t)((share + (INT64_C(1) << (34 - zeros))) >> (35 - zeros)) - 128);
        }
        x += by->length;
        y += by->length;
    }
}
