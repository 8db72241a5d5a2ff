/* Products of pairs, and fixed-point factors rounded as TFLite rounds them. Plain C gives what the DSP extension gives. */
#if defined(__GNUC__)
#define HELPER static inline __attribute__((unused))
#define FOR_EACH_CALL static inline __attribute__((always_inline)) /* made anew where it is called, for the constants there */
#else
#define HELPER static inline
#define FOR_EACH_CALL static inline
#endif

#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__) && !defined(HAVERSACK_MODEL_PORTABLE)
#define HAVERSACK_MODEL_DSP 1
/* The even bytes of a word, or the odd ones, as two numbers of 16 bits. */
HELPER int32_t evens(uint32_t bytes)
{
    int32_t pair;
    __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(bytes));
    return pair;
}

HELPER int32_t odds(uint32_t bytes)
{
    int32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(bytes));
    return pair;
}

/* sum + x.low * y.low + x.high * y.high */
HELPER int32_t add_products(int32_t x, int32_t y, int32_t sum)
{
    int32_t result;
    __asm__("smlad %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(sum));
    return result;
}

HELPER int32_t add_low_low(int32_t x, int32_t y, int32_t sum)
{
    int32_t result;
    __asm__("smlabb %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(sum));
    return result;
}

/* sum + x.low * y.high */
HELPER int32_t add_low_high(int32_t x, int32_t y, int32_t sum)
{
    int32_t result;
    __asm__("smlabt %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(sum));
    return result;
}

HELPER int32_t pair_of(int32_t low, int32_t high)
{
    int32_t pair;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(pair) : "r"(low), "r"(high));
    return pair;
}

/* Of the upper halves. */
HELPER int32_t high_pair_of(int32_t low, int32_t high)
{
    int32_t pair;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(pair) : "r"(high), "r"(low));
    return pair;
}

/* (x * factor) / 2^32, rounded to the nearest, ties up */
HELPER int32_t high_product(int32_t x, int32_t factor)
{
    int32_t result;
    __asm__("smmulr %0, %1, %2" : "=r"(result) : "r"(x), "r"(factor));
    return result;
}

HELPER int32_t in_8_bits(int32_t x)
{
    int32_t result;
    __asm__("ssat %0, #8, %1" : "=r"(result) : "r"(x));
    return result;
}

typedef struct {
    int32_t first, second;
} Two;

/* Two words in one load; the second way goes on behind them. */
HELPER Two two_at(const int32_t *words)
{
    Two two;
    __asm__("ldrd %0, %1, [%2]" : "=r"(two.first), "=r"(two.second) : "r"(words), "m"(*(const Two *)(const void *)words));
    return two;
}

HELPER Two next_two(const int32_t **words)
{
    Two two;
    __asm__("ldrd %0, %1, [%2], #8" : "=&r"(two.first), "=&r"(two.second), "+r"(*words) : : "memory");
    return two;
}

/* Puts two words down, and goes on eight words further. */
HELPER void put_two(int32_t **words, int32_t first, int32_t second)
{
    __asm__("strd %1, %2, [%0], #32" : "+r"(*words) : "r"(first), "r"(second) : "memory");
}
#else
HELPER int32_t signed_byte(uint32_t bytes, uint32_t place)
{
    return (int32_t)(((bytes >> place) & 0xFFU) ^ 0x80U) - 128;
}

HELPER int32_t pair_of(int32_t low, int32_t high)
{
    return (int32_t)(((uint32_t)low & 0xFFFFU) | ((uint32_t)high << 16));
}

HELPER int32_t high_pair_of(int32_t low, int32_t high)
{
    return pair_of(low >> 16, high >> 16);
}

HELPER int32_t low_of(int32_t pair)
{
    return (int32_t)(((uint32_t)pair & 0xFFFFU) ^ 0x8000U) - 0x8000;
}

HELPER int32_t high_of(int32_t pair)
{
    return pair >> 16;
}

HELPER int32_t evens(uint32_t bytes)
{
    return pair_of(signed_byte(bytes, 0U), signed_byte(bytes, 16U));
}

HELPER int32_t odds(uint32_t bytes)
{
    return pair_of(signed_byte(bytes, 8U), signed_byte(bytes, 24U));
}

HELPER int32_t add_products(int32_t x, int32_t y, int32_t sum)
{
    return sum + low_of(x) * low_of(y) + high_of(x) * high_of(y);
}

HELPER int32_t add_low_low(int32_t x, int32_t y, int32_t sum)
{
    return sum + low_of(x) * low_of(y);
}

HELPER int32_t add_low_high(int32_t x, int32_t y, int32_t sum)
{
    return sum + low_of(x) * high_of(y);
}

HELPER int32_t high_product(int32_t x, int32_t factor)
{
    return (int32_t)(((int64_t)x * factor + INT64_C(0x80000000)) >> 32);
}

HELPER int32_t in_8_bits(int32_t x)
{
    return (x < -128) ? -128 : ((x > 127) ? 127 : x);
}

typedef struct {
    int32_t first, second;
} Two;

HELPER Two two_at(const int32_t *words)
{
    const Two two = {words[0], words[1]};
    return two;
}

HELPER Two next_two(const int32_t **words)
{
    const Two two = two_at(*words);
    *words += 2;
    return two;
}

HELPER void put_two(int32_t **words, int32_t first, int32_t second)
{
    (*words)[0] = first;
    (*words)[1] = second;
    *words += 8;
}
#endif

HELPER int32_t add_high_low(int32_t x, int32_t y, int32_t sum)
{
    return add_low_high(y, x, sum);
}

/* Four numbers, as words hold them, in pairs: the first and the third, the second and the fourth. */
HELPER Two four_at(const int8_t *numbers)
{
    const uint32_t bytes = *(const uint32_t *)(const void *)numbers;
    const Two pairs = {evens(bytes), odds(bytes)};
    return pairs;
}

/* How sums end: x * factor / 2^(31 + shift), rounded to the nearest after the product (ties up) and after the shift
   (ties away from zero); then a zero point, and two limits. A shift below zero goes left before the product, where what
   leaves 32 bits is lost. */
typedef struct {
    int32_t factor, shift, zero, low, high;
    int32_t added; /* before the shift: half of what it divides by, and the zero point */
    int32_t wide;  /* as numbers of 16 bits end: x * factor / 2^shift, rounded once (ties up) */
} Ending;

HELPER int32_t half_of(int32_t shift)
{
    return (shift > 0) ? ((int32_t)1 << (shift - 1)) : 0;
}

HELPER Ending ending_of(int32_t factor, int32_t shift, int32_t zero, int32_t low, int32_t high)
{
#if HAVERSACK_MODEL_LARGE_SUMS
    const Ending ending = {factor, shift, zero, low, high, 0, 0};
#else
    const Ending ending = {factor, shift, zero, low, high, half_of(shift) + ((shift > 0) ? zero * ((int32_t)1 << shift) : zero), 0};
#endif
    return ending;
}

HELPER int32_t kept(int32_t x, int32_t low, int32_t high)
{
    const int32_t byte = in_8_bits(x);
#if HAVERSACK_MODEL_LIMITS
    return (byte < low) ? low : ((byte > high) ? high : byte);
#else
    (void)low; /* no layer of this network has other limits than -128 and 127 */
    (void)high;
    return byte;
#endif
}

#if HAVERSACK_MODEL_LARGE_SUMS
HELPER int32_t scaled(int32_t x, int32_t factor, int32_t shift)
{
    const int32_t wide = (shift < 0) ? (int32_t)((uint32_t)x << (uint32_t)-shift) : x;
    const int64_t product = ((int64_t)wide * factor + (INT64_C(1) << 30)) >> 31;
    const int64_t high = (product > INT32_MAX) ? INT32_MAX : product;
    return (int32_t)((shift > 0) ? ((high + (high >> 63) + (INT64_C(1) << (shift - 1))) >> shift) : high);
}

HELPER int8_t result_of(Ending by, int32_t sum)
{
    return (int8_t)kept(scaled(sum, by.factor, by.shift) + by.zero, by.low, by.high);
}

HELPER int8_t result_of_twice(Ending by, int32_t twice)
{
    return result_of(by, twice / 2);
}
#else
/* No sum of this network reaches 2^30, and no shift is so far that the zero point does not fit before it. */
HELPER int32_t moved(int32_t high, int32_t added, int32_t shift)
{
#if HAVERSACK_MODEL_NO_SHIFTS
    return (shift > 0) ? ((high + (high >> 31) + added) >> shift) : high + added;
#else
    return (high + (high >> 31) + added) >> shift;
#endif
}

HELPER int32_t scaled(int32_t x, int32_t factor, int32_t shift)
{
#if HAVERSACK_MODEL_LEFT_SHIFTS
    x = (shift < 0) ? x * ((int32_t)1 << -shift) : x;
#endif
    return (shift > 0) ? moved(high_product(x * 2, factor), half_of(shift), shift) : high_product(x * 2, factor);
}

HELPER int8_t result_of_twice(Ending by, int32_t twice)
{
#if HAVERSACK_MODEL_LEFT_SHIFTS
    twice = (by.shift < 0) ? twice * ((int32_t)1 << -by.shift) : twice;
#endif
    return (int8_t)kept(moved(high_product(twice, by.factor), by.added, by.shift), by.low, by.high);
}

HELPER int8_t result_of(Ending by, int32_t sum)
{
    return result_of_twice(by, sum * 2);
}
#endif

#if HAVERSACK_MODEL_16_BITS
#if defined(__GNUC__)
typedef int16_t __attribute__((may_alias)) Number16; /* at another time there are words in its place */
#else
typedef int16_t Number16;
#endif

HELPER Two four_at_16(const Number16 *numbers)
{
    const Two words = two_at((const int32_t *)(const void *)numbers);
    const Two pairs = {pair_of(words.first, words.second), high_pair_of(words.first, words.second)};
    return pairs;
}

HELPER Number16 kept_16(int32_t x, int32_t low, int32_t high)
{
    return (Number16)((x < low) ? low : ((x > high) ? high : x));
}

/* Such numbers have no zero point. */
HELPER Number16 long_result_of(Ending by, int64_t sum)
{
    const int64_t result = (sum * by.factor + (INT64_C(1) << (by.shift - 1))) >> by.shift;
    return (Number16)((result < by.low) ? by.low : ((result > by.high) ? by.high : result));
}

HELPER Number16 result_of_16(Ending by, int32_t sum)
{
    return (by.wide != 0) ? long_result_of(by, sum) : kept_16(scaled(sum, by.factor, by.shift), by.low, by.high);
}

HELPER Number16 result_of_twice_16(Ending by, int32_t twice)
{
    return result_of_16(by, twice / 2);
}
#endif
