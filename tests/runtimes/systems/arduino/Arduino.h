/* As much of Arduino as a sketch needs to run here. */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stdint.h>
#include <stdio.h>

#define F(text) text

struct Port {
    void begin(unsigned long) {}
    void print(const char *text) { (void)printf("%s", text); }
    void print(long number) { (void)printf("%ld", number); }
    void print(unsigned long number) { (void)printf("%lu", number); }
    void println(const char *text) { (void)printf("%s\n", text); }
    void println(long number) { (void)printf("%ld\n", number); }
};

static Port Serial;

static inline unsigned long micros() { return 7; }
static inline void delay(unsigned long) {}

#endif
