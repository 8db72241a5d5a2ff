/* Copies runs of bytes from where they lie to where they should. */
typedef struct {
    int32_t counts[5], from[5], to[5]; /* runs along each axis, and the bytes from one to the next */
    int32_t from_start, to_start;
    int32_t run;
} Move;

static void move(const Move *by, const void *x, void *y)
{
    const uint8_t *const source = (const uint8_t *)x + by->from_start;
    uint8_t *const target = (uint8_t *)y + by->to_start;
    for (int32_t a = 0; a < by->counts[0]; a++) {
        for (int32_t b = 0; b < by->counts[1]; b++) {
            for (int32_t c = 0; c < by->counts[2]; c++) {
                for (int32_t d = 0; d < by->counts[3]; d++) {
                    const uint8_t *from = source + a * by->from[0] + b * by->from[1] + c * by->from[2] + d * by->from[3];
                    uint8_t *to = target + a * by->to[0] + b * by->to[1] + c * by->to[2] + d * by->to[3];
                    for (int32_t e = 0; e < by->counts[4]; e++) {
                        (void)memcpy(to, from, (size_t)by->run);
                        from += by->from[4];
                        to += by->to[4];
                    }
                }
            }
        }
    }
}
