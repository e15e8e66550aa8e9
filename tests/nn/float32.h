// What the tests of loops in float32 allow.
#pragma once

constexpr double kEps = 0x1p-23;  // spacing of float32 at 1
