// Every kernel of the table against plain loops in double over the canonical codes, on all widths of codes, groups,
// tails and numbers of inputs and sets. Buffers have exactly the size they are said to have, so that sanitizers see
// every read past an end.
#include "quant/kernels/product.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>

#include "core/error.h"

namespace {

using namespace quant::kernels;

struct Case {
  int64_t rows, columns, bits, group_size, inputs, sets;
  bool has_zeros, is_half, has_table;
  Precision precision;
  int64_t window_bits = 0;
  float scale = 0.1f;  // size of the scales
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.rows << "x" << c.columns << " bits " << c.bits << " group " << c.group_size << " inputs " << c.inputs
             << " sets " << c.sets << (c.has_zeros ? " zeros" : "") << (c.is_half ? " half" : "")
             << (c.has_table ? " table" : "") << " window " << c.window_bits << " scale " << c.scale
             << (c.precision == Precision::integer ? " integer" : " real");
}

std::vector<uint8_t> pack(const std::vector<uint8_t>& codes, int64_t rows, int64_t columns, int64_t bits) {
  const int64_t width = (columns * bits + 7) / 8;
  std::vector<uint8_t> packed(rows * width);
  for (int64_t i = 0; i < rows * columns * bits; ++i) {
    const int64_t row = i / (columns * bits), bit = i % (columns * bits);
    packed[row * width + bit / 8] |= (codes[row * columns + bit / bits] >> bit % bits & 1) << bit % 8;
  }
  return packed;
}

// Random codes, parameters and inputs of a case, and what they give.
struct Problem {
  explicit Problem(const Case& of) : c(of), layout(Layout::of(c.rows, c.columns, c.bits, c.group_size, c.window_bits)) {
    std::mt19937 random(static_cast<uint32_t>(c.rows * 131 + c.columns * 31 + c.bits * 7 + c.inputs + c.sets));
    std::normal_distribution<float> normal;
    codes.resize(c.rows * c.columns);
    for (auto& code : codes) code = random() & ((1u << c.bits) - 1);
    words.resize(layout.words());
    fill_codes(layout, pack(codes, c.rows, c.columns, c.bits).data(), words.data());
    if (c.has_table) {
      for (int64_t k = 0; k < int64_t{1} << std::max(c.bits, c.window_bits); ++k) table.push_back(normal(random));
    }
    const auto rounded = [&](float v) { return c.is_half ? from_half(to_half(v)) : v; };
    values.resize(c.sets);
    for (int64_t r = 0; r < c.sets; ++r) {
      std::vector<float> s(c.rows * layout.groups), z(s.size());
      for (auto& v : s) v = rounded(normal(random) * c.scale);
      for (auto& v : z) v = rounded(normal(random) + static_cast<float>(1 << c.bits) / 2);
      values[r].resize(parameter_values(layout, c.has_zeros));
      halves.emplace_back(c.is_half ? values[r].size() : 0);
      void* to = c.is_half ? static_cast<void*>(halves[r].data()) : values[r].data();
      fill_parameters(layout, s.data(), c.has_zeros ? z.data() : nullptr, c.is_half, to);
      sets.push_back({to, c.is_half, c.has_zeros, c.has_table ? 0 : 1.5f, c.has_table ? table.data() : nullptr});
      scale.push_back(std::move(s));
      zero.push_back(std::move(z));
    }
    x.resize(c.inputs * c.columns);
    for (auto& v : x) v = normal(random);
    inputs.prepare(layout, c.precision, x.data(), c.inputs, c.columns);
  }

  // What chooses a level: the code, or the window of codes that ends with it, row by row in its tile of 16 × 16.
  int64_t index(int64_t row, int64_t i) const {
    int64_t window = 0;
    for (int64_t t = 0, last = row % 16 * 16 + i % 16; t <= last && c.window_bits > 0; ++t) {
      window = (window << c.bits | codes[(row / 16 * 16 + t / 16) * c.columns + i / 16 * 16 + t % 16]) &
               ((int64_t{1} << c.window_bits) - 1);
    }
    return c.window_bits > 0 ? window : codes[row * c.columns + i];
  }

  // Element i of an input whose `group` neighbours share a scale, in int8.
  static double rounded(const float* x, int64_t i, int64_t group) {
    float largest = 0;
    for (int64_t n = i / group * group; n < i / group * group + group; ++n)
      largest = std::max(largest, std::fabs(x[n]));
    const float step = largest / 127;
    return static_cast<double>(step) * std::nearbyint(x[i] / step);
  }

  // Element `row` of input j under set r, and the sum of the magnitudes of what is added up.
  std::pair<double, double> expected(int64_t r, int64_t j, int64_t row) const {
    double sum = 0, magnitude = 0;
    const bool rounds_by_group = c.columns % 32 == 0 && layout.group_size % 32 == 0;
    for (int64_t i = 0; i < c.columns; ++i) {
      const int64_t group = row * layout.groups + i / layout.group_size, k = index(row, i);
      const double z = c.has_zeros ? zero[r][group] : 1.5, s = scale[r][group];
      double in = x[j * c.columns + i];
      if (c.precision == Precision::integer)
        in = rounded(x.data() + j * c.columns, i, rounds_by_group ? 32 : c.columns);
      sum += s * (c.has_table ? table[k] : static_cast<double>(k) - z) * in;
      magnitude += std::fabs(s * in) * (c.has_table ? std::fabs(table[k]) : static_cast<double>(k) + std::fabs(z));
    }
    return {sum, magnitude};
  }

  void check(const Kernel& kernel) const {
    const int64_t outputs = std::max(c.inputs, c.sets);
    std::vector<float> out(outputs * c.rows, std::numeric_limits<float>::quiet_NaN());
    const Product product{&layout, words.data(), sets.data(), c.sets, &inputs, out.data(), c.rows};
    kernel.run(product, 0, layout.tiles());
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t row = 0; row < c.rows; ++row) {
        const auto [sum, magnitude] = expected(c.sets > 1 ? o : 0, c.inputs > 1 ? o : 0, row);
        // Each of the at most `columns` additions of a lane rounds once.
        const double bound = 6e-8 * static_cast<double>(c.columns + 8) * magnitude + 1e-30;
        ASSERT_NEAR(out[o * c.rows + row], sum, bound) << kernel.name << " " << c << " output " << o << " row " << row;
      }
    }
  }

  Case c;
  Layout layout;
  std::vector<uint8_t> codes;
  std::vector<uint32_t> words;
  std::vector<float> table, x;
  std::vector<std::vector<float>> values, scale, zero;
  std::vector<std::vector<uint16_t>> halves;
  std::vector<quant::kernels::Parameters> sets;
  Inputs inputs;
};

void check_all(const Case& c) {
  const Problem problem(c);
  for (const Kernel& kernel : kernels()) {
    if (kernel.runs_here) problem.check(kernel);
    if (testing::Test::HasFatalFailure()) return;
  }
}

// The widths of a code that kernels know.
const std::vector<int64_t> kBits = [] {
  std::vector<int64_t> all;
  for (int64_t bits = 1; bits <= 8; ++bits) {
    if (Layout::fits(bits)) all.push_back(bits);
  }
  return all;
}();

TEST(PackedProduct, EveryWidthGroupAndNumberOfInputs) {
  for (const int64_t bits : kBits) {
    for (const int64_t group : {16, 32, 48, 64, 128, -1}) {
      for (int64_t n = 1; n <= kMostInputs; ++n) {
        for (const Precision precision : {Precision::real, Precision::integer}) {
          check_all({32, 192, bits, group, n, 1, true, true, false, precision});
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(PackedProduct, OddShapesAndTails) {
  for (const int64_t bits : kBits) {
    for (const int64_t rows : {1, 5, 15, 16, 17, 33}) {
      for (const int64_t columns : {1, 3, 31, 65, 100, 259}) {
        for (const int64_t group : {7, 16, 64, -1}) {
          for (const Precision precision : {Precision::real, Precision::integer}) {
            check_all({rows, columns, bits, group, rows % 3 + 1, 1, rows % 2 == 0, columns % 2 == 0, false, precision});
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(PackedProduct, SetsOfParametersOnOneInput) {
  for (const int64_t bits : kBits) {
    for (int64_t sets = 1; sets <= 9; ++sets) {
      for (const bool has_zeros : {false, true}) {
        for (const Precision precision : {Precision::real, Precision::integer}) {
          for (const int64_t columns : {150, 160})
            check_all({19, columns, bits, 32, 1, sets, has_zeros, true, false, precision});
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(PackedProduct, EveryInputWithASetOfItsOwn) {
  for (const int64_t bits : kBits) {
    for (int64_t n = 2; n <= kMostInputs; ++n) {
      for (const bool has_zeros : {false, true}) {
        for (const Precision precision : {Precision::real, Precision::integer}) {
          for (const int64_t columns : {150, 160})
            check_all({19, columns, bits, 32, n, n, has_zeros, n % 2 == 0, false, precision});
          if (HasFatalFailure()) return;
        }
      }
      check_all({21, 130, bits, 64, n, n, false, true, true, Precision::real});
      if (bits == 2) check_all({48, 160, 2, 32, n, n, false, true, true, Precision::real, 12});
      if (HasFatalFailure()) return;
    }
  }
}

TEST(PackedProduct, Tables) {
  for (const int64_t bits : kBits) {
    for (int64_t n = 1; n <= kMostInputs; ++n) check_all({21, 130, bits, 64, n, 1, false, true, true, Precision::real});
    check_all({21, 130, bits, -1, 1, 3, false, false, true, Precision::real});
    if (HasFatalFailure()) return;
  }
}

// Scales below 2⁻¹⁴ are subnormal in float16, those below 2⁻²⁴ are 0 or the smallest one.
TEST(PackedProduct, SubnormalScales) {
  for (const int64_t bits : kBits) {
    for (const float scale : {0x1p-14f, 0x1p-18f, 0x1p-23f}) {
      for (const Precision precision : {Precision::real, Precision::integer}) {
        check_all({21, 130, bits, 32, 2, 1, true, true, false, precision, 0, scale});
      }
      check_all({21, 130, bits, 32, 2, 1, false, true, true, Precision::real, 0, scale});
      if (HasFatalFailure()) return;
    }
  }
}

TEST(PackedProduct, WindowsOfCodes) {
  for (const int64_t window : {4, 8, 12, 16}) {
    for (int64_t n = 1; n <= kMostInputs; ++n) {
      check_all({48, 160, 2, n % 2 == 0 ? 32 : -1, n, 1, false, n % 3 == 0, true, Precision::real, window});
      if (HasFatalFailure()) return;
    }
  }
  check_all({16, 16, 2, 16, 1, 2, false, true, true, Precision::real, 8});
}

TEST(PackedProduct, LongRowsAreCutIntoSpans) {
  for (const int64_t bits : kBits) {
    for (const Precision precision : {Precision::real, Precision::integer}) {
      check_all({16, 13824, bits, -1, 1, 1, true, false, false, precision});
      check_all({3, 4097, bits, -1, 2, 1, false, true, false, precision});
      for (const int64_t columns : {8960, 11008}) check_all({3, columns, bits, -1, 2, 1, true, true, false, precision});
      if (HasFatalFailure()) return;
    }
  }
}

// The largest codes and inputs there are, all of one sign: nothing overflows.
TEST(PackedProduct, ExtremeSumsAreExact) {
  for (const int64_t bits : kBits) {
    for (const int64_t columns : {4096, 70000}) {
      const Layout layout = Layout::of(16, columns, bits, -1);
      const int64_t width = (columns * bits + 7) / 8;
      std::vector<uint8_t> ones(16 * width, 0xff);
      std::vector<uint32_t> words(layout.words());
      fill_codes(layout, ones.data(), words.data());
      std::vector<float> s(16, 1), x(columns, -127), values(parameter_values(layout, false)), out(16);
      fill_parameters(layout, s.data(), nullptr, false, values.data());
      const quant::kernels::Parameters set{values.data(), false, false, 0, nullptr};
      Inputs inputs;
      inputs.prepare(layout, Precision::integer, x.data(), 1, columns);
      for (const Kernel& kernel : kernels()) {
        if (!kernel.runs_here) continue;
        kernel.run({&layout, words.data(), &set, 1, &inputs, out.data(), 16}, 0, 1);
        const double exact = -127.0 * ((1 << bits) - 1) * static_cast<double>(columns);
        EXPECT_NEAR(out[0], exact, std::fabs(exact) * 1e-6) << kernel.name << " bits " << bits;
      }
    }
  }
}

TEST(PackedProduct, InputsThatAreNotFiniteGiveNoNumber) {
  for (const int64_t group : {32, 16}) {  // inputs rounded in groups, and as a whole
    for (const float strange : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      Problem problem({16, 64, 2, group, 1, 1, true, true, false, Precision::integer});
      problem.x[5] = strange;
      problem.inputs.prepare(problem.layout, Precision::integer, problem.x.data(), 1, 64);
      std::vector<float> out(16);
      for (const Kernel& kernel : kernels()) {
        if (!kernel.runs_here) continue;
        kernel.run({&problem.layout, problem.words.data(), problem.sets.data(), 1, &problem.inputs, out.data(), 16}, 0,
                   1);
        EXPECT_TRUE(std::isnan(out[3])) << kernel.name << " group " << group << " input " << strange;
      }
    }
  }
}

TEST(Layout, EveryCodeIsFoundAgain) {
  for (const int64_t bits : kBits) {
    const Problem problem({17, 75, bits, 20, 1, 1, false, false, false, Precision::real});
    std::vector<uint8_t> row_codes(75);
    for (int64_t row = 0; row < 17; ++row) {
      read_codes(problem.layout, problem.words.data(), row, row_codes.data());
      for (int64_t i = 0; i < 75; ++i) {
        ASSERT_EQ(code_at(problem.layout, problem.words.data(), row, i), problem.codes[row * 75 + i]) << bits;
        ASSERT_EQ(row_codes[i], problem.codes[row * 75 + i]) << bits;
      }
    }
  }
  const Problem windows({32, 80, 2, 16, 1, 1, false, false, true, Precision::real, 8});
  std::vector<uint8_t> row_codes(80);
  for (int64_t row = 0; row < 32; ++row) {
    read_codes(windows.layout, windows.words.data(), row, row_codes.data());
    for (int64_t i = 0; i < 80; ++i) ASSERT_EQ(row_codes[i], windows.codes[row * 80 + i]) << "of windows";
  }
}

TEST(Layout, HalvesOfAllBits) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = from_half(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(to_half(value), bits) << value;
  }
  const float exact[] = {0, -2.5f, 65504, 5.9604645e-8f}, third[] = {1.0f / 3}, large[] = {65520};
  EXPECT_TRUE(fits_half(exact, 4));
  EXPECT_FALSE(fits_half(third, 1));
  EXPECT_FALSE(fits_half(large, 1));
}

TEST(Kernels, AnyOneIsForcedByName) {
  EXPECT_EQ(kernels().back().name, "reference");
  ::setenv("REFRAIN_KERNEL", "reference", 1);
  EXPECT_EQ(chosen_kernel().name, "reference");
  ::setenv("REFRAIN_KERNEL", "fast", 1);
  EXPECT_THAT([] { chosen_kernel(); },
              testing::ThrowsMessage<core::UserError>(testing::MatchesRegex(
                  "REFRAIN_KERNEL: there is no kernel fast that runs here. Choose one of: .*reference; or unset it.")));
  ::unsetenv("REFRAIN_KERNEL");
  EXPECT_TRUE(chosen_kernel().runs_here);
}

}  // namespace
