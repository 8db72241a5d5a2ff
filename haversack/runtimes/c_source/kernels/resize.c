/* Rows and columns that are copies of what is read. */
typedef struct {
    const uint16_t *rows, *columns;
    int32_t height, width, in_width;
    int32_t run; /* bytes of a pixel */
} Resize;

static void resize(const Resize *by, const void *x, void *y)
{
    uint8_t *to = (uint8_t *)y;
    for (int32_t row = 0; row < by->height; row++) {
        for (int32_t column = 0; column < by->width; column++) {
            const int32_t place = by->rows[row] * by->in_width + by->columns[column];
            (void)memcpy(to, (const uint8_t *)x + place * by->run, (size_t)by->run);
            to += by->run;
        }
    }
}
