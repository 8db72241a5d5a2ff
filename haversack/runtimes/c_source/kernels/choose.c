/* The larger or the smaller of two numbers on one grid. */
typedef struct {
    int32_t counts[4];                     /* numbers along each axis of the result */
    int32_t left_steps[4], right_steps[4]; /* how far apart they lie in what is read: 0 where one serves all */
    int16_t larger;
} Choice;

static void choose(const Choice *by, const int8_t *left, const int8_t *right, int8_t *y)
{
    for (int32_t a = 0; a < by->counts[0]; a++) {
        for (int32_t b = 0; b < by->counts[1]; b++) {
            for (int32_t c = 0; c < by->counts[2]; c++) {
                const int8_t *one = left + a * by->left_steps[0] + b * by->left_steps[1] + c * by->left_steps[2];
                const int8_t *other = right + a * by->right_steps[0] + b * by->right_steps[1] + c * by->right_steps[2];
                for (int32_t d = 0; d < by->counts[3]; d++) {
                    *y = ((*one > *other) == (by->larger != 0)) ? *one : *other;
                    y++;
                    one += by->left_steps[3];
                    other += by->right_steps[3];
                }
            }
        }
    }
}
