/* Rows that are still read move up to where the first of them should be, `by` bytes before it. */
static void keep(int8_t *rows, int32_t by, int32_t bytes)
{
    if (((by | bytes) & 3) == 0) {
        int32_t *const words = (int32_t *)(void *)rows;
        for (int32_t place = 0; place < bytes / 4; place++) {
            words[place] = words[place + by / 4];
        }
    } else {
        for (int32_t place = 0; place < bytes; place++) {
            rows[place] = rows[place + by];
        }
    }
}
