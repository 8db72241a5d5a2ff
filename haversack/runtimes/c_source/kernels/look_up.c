/* A function of one number: what each of -128..127 becomes. */
typedef struct {
    const int8_t *table;
    int32_t count;
} Table;

static void look_up(const Table *by, const int8_t *x, int8_t *y)
{
    for (int32_t place = 0; place < by->count; place++) {
        y[place] = by->table[x[place] + 128];
    }
}
