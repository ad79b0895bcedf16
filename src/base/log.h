// Logging: spdlog's default logger. The library only writes through it; the program configures it.
#pragma once

#include <spdlog/spdlog.h>
