/* Runs the network once a second, and tells on the serial port what it found and how long it took. */
#include <{name}.h>

static void report(const char *name, int32_t place, int32_t number)
{{
    Serial.print(name);
    Serial.print(F(": number "));
    Serial.print(static_cast<long>(place));
    Serial.print(F(" is the largest, "));
    Serial.println(static_cast<long>(number));
}}

{example}
void setup()
{{
    Serial.begin(115200);
}}

void loop()
{{
    fill_inputs();
    const unsigned long before = micros();
    run();
    const unsigned long took = micros() - before;
    report_outputs();
    Serial.print(took);
    Serial.println(F(" microseconds"));
    delay(1000);
}}
