// Blocks of GGUF types put together: the inverse of taking them apart, on ggml's own bytes.
#include "core/io/ggml_encode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/io/gguf.h"
#include "tests/io/support.h"

namespace core {
namespace {

TEST(GgmlEncode, PutsTogetherWhatWasTakenApart) {
  const Gguf golden = Gguf::open(std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/gguf/types.gguf");
  ASSERT_EQ(coded_ggml_types().size(), 13u);
  for (const GgmlType* type : coded_ggml_types()) {
    const GgufTensor* tensor = golden.find(type->name);
    ASSERT_NE(tensor, nullptr) << type->name;
    std::vector<std::byte> block(type->block_bytes);
    for (size_t at = 0; at < tensor->bytes; at += type->block_bytes) {
      GgmlBlock apart{};
      type->take_apart(tensor->data + at, apart);
      put_together(*type, apart, block.data());
      ASSERT_EQ(std::memcmp(block.data(), tensor->data + at, block.size()), 0) << type->name << ", byte " << at;
    }
  }
}

TEST(GgmlEncode, FewerBitsComeFirst) {
  double bits = 0;
  for (const GgmlType* type : coded_ggml_types()) {
    EXPECT_GE(type->bits(), bits) << type->name;
    bits = type->bits();
  }
  EXPECT_STREQ(coded_ggml_types().front()->name, "Q1_0");
  EXPECT_EQ(find_ggml_type("q4_k"), find_ggml_type(12));
  EXPECT_EQ(find_ggml_type("Q4_K"), find_ggml_type(12));
  EXPECT_EQ(find_ggml_type("q4"), nullptr);
}

TEST(HalfOfFloat, GivesEveryHalfBack) {
  for (uint32_t bits = 0; bits < 1u << 16; ++bits) {
    const float value = float_of_half(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(float_of_half(half_of_float(value))));
    } else {
      ASSERT_EQ(half_of_float(value), bits) << value;
    }
  }
}

// Between two neighbours, the nearer one, and at a tie the even one, subnormal numbers and overflow included.
TEST(HalfOfFloat, RoundsToTheNearestEven) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float low = float_of_half(static_cast<uint16_t>(bits));
    const float high = bits + 1 == 0x7c00 ? 65536.0f : float_of_half(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;
    const uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(half_of_float(middle), even) << middle;
    ASSERT_EQ(half_of_float(std::nextafter(middle, 0.0f)), bits) << middle;
    ASSERT_EQ(half_of_float(std::nextafter(middle, 1e9f)), bits + 1) << middle;
    ASSERT_EQ(half_of_float(-middle), even | 0x8000) << middle;
  }
  EXPECT_EQ(half_of_float(1e10f), 0x7c00);
}

}  // namespace
}  // namespace core
