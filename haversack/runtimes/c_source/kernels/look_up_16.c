/* A function of one number of 8 bits: what each of -128..127 becomes, in 16. */
typedef struct {
    const int16_t *table;
    int32_t count;
} WideTable;

static void look_up_16(const WideTable *by, const int8_t *x, Number16 *y)
{
    for (int32_t place = 0; place < by->count; place++) {
        y[place] = by->table[x[place] + 128];
    }
}
