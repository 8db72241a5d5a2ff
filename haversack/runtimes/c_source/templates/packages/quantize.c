/* A real number as the integer that stands for it. */
static int8_t quantized(float number, float scale, int32_t zero_point)
{
    const float steps = (number / scale) + ((number < 0.0F) ? -0.5F : 0.5F);
    const int32_t nearest = (steps > 1000.0F) ? 1000 : ((steps > -1000.0F) ? (int32_t)steps : -1000);
    const int32_t integer = nearest + zero_point;
    return (int8_t)((integer > 127) ? 127 : ((integer < -128) ? -128 : integer));
}
