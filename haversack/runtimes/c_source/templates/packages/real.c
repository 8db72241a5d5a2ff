/* Yours: the next number that the network is to see, as it saw it when it was trained. */
static float next_number(void)
{
    return 0.0F;
}
