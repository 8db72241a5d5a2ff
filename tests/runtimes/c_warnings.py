"""What compilers are told about the C that is written: to warn of more than people's projects do, and to stop at it."""

WARNINGS = (
    *("-Wall", "-Wextra", "-Werror", "-Wconversion", "-pedantic"),
    *("-Wshadow", "-Wundef", "-Wcast-qual", "-Wpointer-arith", "-Wwrite-strings", "-Wdouble-promotion"),
)
OF_C = ("-std=c99", *WARNINGS, "-Wstrict-prototypes", "-Wmissing-prototypes")
OF_CPP = ("-x", "c++", "-std=c++11", *WARNINGS)
