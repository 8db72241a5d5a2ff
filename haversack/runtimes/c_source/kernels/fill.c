/* One number everywhere. */
typedef struct {
    int32_t count;
    int16_t number;
} Fill;

static void fill(const Fill *by, int8_t *y)
{
    for (int32_t place = 0; place < by->count; place++) {
        y[place] = (int8_t)by->number;
    }
}
