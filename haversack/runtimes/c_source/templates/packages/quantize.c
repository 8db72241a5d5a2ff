/* A real number as the integer that stands for it, between these two. */
static int32_t quantized(float number, float scale, int32_t zero_point, int32_t low, int32_t high)
{
    const float steps = (number / scale) + ((number < 0.0F) ? -0.5F : 0.5F);
    const int32_t nearest = (steps > 100000.0F) ? 100000 : ((steps > -100000.0F) ? (int32_t)steps : -100000);
    const int32_t integer = nearest + zero_point;
    return (integer > high) ? high : ((integer < low) ? low : integer);
}
