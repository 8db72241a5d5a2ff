/* Numbers kept between two limits. */
typedef struct {
    int32_t count;
    int16_t low, high;
} Limits;

static void limit(const Limits *by, const int8_t *x, int8_t *y)
{
    for (int32_t place = 0; place < by->count; place++) {
        y[place] = (int8_t)kept(x[place], by->low, by->high);
    }
}
