/* Rows of a table by their numbers. One that there is not reads as the first. */
typedef struct {
    const void *table;
    int32_t count; /* of numbers */
    int32_t rows;  /* of the table */
    int32_t run;   /* bytes of a row */
} Gather;

static void gather(const Gather *by, const int32_t *numbers, void *y)
{
    uint8_t *to = (uint8_t *)y;
    for (int32_t place = 0; place < by->count; place++) {
        const int32_t row = ((numbers[place] >= 0) && (numbers[place] < by->rows)) ? numbers[place] : 0;
        (void)memcpy(to, (const uint8_t *)by->table + row * by->run, (size_t)by->run);
        to += by->run;
    }
}
