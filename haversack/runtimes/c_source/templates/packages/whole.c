/* Yours: the next whole number that the network is to see, such as the place of a word in a list. */
static int32_t next_whole_number(void)
{
    return 0;
}
