// Codes: every byte and every short row, against a packer that looks at one bit at a time.
#include "core/codes.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

namespace core {
namespace {

at::Tensor bytes(const std::vector<uint8_t>& values, int64_t rows) {
  return at::tensor(at::ArrayRef<uint8_t>(values), at::kByte).reshape({rows, -1});
}

// Bit b of code j of a row is bit (j · bits + b) of the row's bytes, counted from each byte's least significant bit.
std::vector<uint8_t> slow_packed(const std::vector<uint8_t>& codes, int64_t bits) {
  std::vector<uint8_t> row((codes.size() * bits + 7) / 8, 0);
  for (size_t j = 0; j < codes.size(); ++j) {
    for (int64_t b = 0; b < bits; ++b) {
      const size_t position = j * bits + b;
      if (codes[j] >> b & 1) row[position / 8] |= static_cast<uint8_t>(1u << position % 8);
    }
  }
  return row;
}

std::vector<uint8_t> slow_unpacked(const std::vector<uint8_t>& row, int64_t columns, int64_t bits) {
  std::vector<uint8_t> codes(columns, 0);
  for (int64_t position = 0; position < columns * bits; ++position) {
    if (row[position / 8] >> position % 8 & 1) codes[position / bits] |= static_cast<uint8_t>(1u << position % bits);
  }
  return codes;
}

at::Tensor random_codes(int64_t rows, int64_t columns, int64_t bits) {
  return at::randint(0, 1 << bits, {rows, columns}, at::kByte);
}

// Eight codes fill `bits` bytes exactly, so every byte value is legal at each of their positions.
TEST(Codes, EveryByteUnpacksAsItsBitsSayAndPacksBack) {
  for (int64_t bits = 1; bits <= 8; ++bits) {
    for (int64_t position = 0; position < bits; ++position) {
      for (int value = 0; value < 256; ++value) {
        std::vector<uint8_t> row(bits, 0x5a);
        row[position] = static_cast<uint8_t>(value);
        const Codes codes = Codes::from_packed(bytes(row, 1), 8, bits);
        const at::Tensor unpacked = codes.unpack();
        ASSERT_TRUE(at::equal(unpacked, bytes(slow_unpacked(row, 8, bits), 1)))
            << bits << " bits, byte " << position << " = " << value;
        ASSERT_TRUE(at::equal(Codes::pack(unpacked, bits).packed(), codes.packed()))
            << bits << " bits, byte " << position << " = " << value;
      }
    }
  }
}

TEST(Codes, AllRowsOfFourWeightsAtOneAndTwoBitsAreOneByteInCanonicalOrder) {
  for (int64_t bits = 1; bits <= 2; ++bits) {
    for (int row = 0; row < 1 << (4 * bits); ++row) {
      std::vector<uint8_t> codes(4);
      for (int64_t j = 0; j < 4; ++j) codes[j] = static_cast<uint8_t>(row >> (j * bits) & ((1 << bits) - 1));
      const Codes packed = Codes::pack(bytes(codes, 1), bits);
      ASSERT_EQ(packed.packed().numel(), 1);
      ASSERT_EQ(packed.packed().item<uint8_t>(), row);
      ASSERT_TRUE(at::equal(packed.unpack(), bytes(codes, 1)));
    }
  }
}

TEST(Codes, PackThenUnpackGivesTheCodesForEveryWidthAndTheReferenceAgrees) {
  at::manual_seed(3);
  for (int64_t bits = 1; bits <= 8; ++bits) {
    for (int64_t columns = 1; columns <= 33; ++columns) {
      const at::Tensor codes = random_codes(3, columns, bits);
      const Codes packed = Codes::pack(codes, bits);
      ASSERT_EQ(packed.packed().size(1), (columns * bits + 7) / 8);
      ASSERT_EQ(packed.stored_bits(), 3 * columns * bits);
      ASSERT_TRUE(at::equal(packed.unpack(), codes)) << bits << " bits, " << columns << " columns";
      ASSERT_TRUE(at::equal(unpack_reference(packed.packed(), columns, bits), codes))
          << bits << " bits, " << columns << " columns";
      const std::vector<uint8_t> first(codes.const_data_ptr<uint8_t>(), codes.const_data_ptr<uint8_t>() + columns);
      ASSERT_TRUE(at::equal(packed.packed()[0], bytes(slow_packed(first, bits), 1)[0]))
          << bits << " bits, " << columns << " columns";
    }
  }
}

TEST(Codes, RowsThatSeveralThreadsShareAreNotMixedUp) {
  at::manual_seed(4);
  for (const int64_t bits : {2, 3, 8}) {
    const at::Tensor codes = random_codes(257, 1031, bits);  // many times the rows of one task
    const Codes packed = Codes::pack(codes, bits);
    EXPECT_TRUE(at::equal(packed.unpack(), codes));
    EXPECT_TRUE(at::equal(unpack_reference(packed.packed(), 1031, bits), codes));
  }
}

TEST(Codes, PackTakesAMatrixThatIsNotContiguous) {
  at::manual_seed(5);
  const at::Tensor codes = random_codes(7, 5, 3);
  EXPECT_TRUE(at::equal(Codes::pack(codes.t(), 3).unpack(), codes.t()));
}

TEST(Codes, HashChangesWithEveryCodeWithShapeAndWithBits) {
  const at::Tensor codes = at::zeros({3, 5}, at::kByte);
  std::set<std::string> hashes{Codes::pack(codes, 3).hash()};
  for (int64_t i = 0; i < codes.numel(); ++i) {
    at::Tensor changed = codes.clone();
    changed.view(-1)[i] = 1;
    hashes.insert(Codes::pack(changed, 3).hash());
  }
  hashes.insert(Codes::pack(codes.reshape({5, 3}), 3).hash());  // the same codes in another shape
  hashes.insert(Codes::pack(codes, 2).hash());
  EXPECT_EQ(hashes.size(), 1 + 15 + 2);
  EXPECT_EQ(Codes::pack(codes, 3).hash(), Codes::pack(codes.clone(), 3).hash());
}

TEST(Codes, RefuseACodeThatDoesNotFitAndAShapeThatIsNotTheirs) {
  EXPECT_THROW(Codes::pack(at::full({1, 4}, 4, at::kByte), 2), c10::Error);
  EXPECT_THROW(Codes::pack(at::zeros({1, 4}, at::kInt), 2), c10::Error);
  EXPECT_THROW(Codes::pack(at::zeros({1, 4}, at::kByte), 9), c10::Error);
  EXPECT_THROW(Codes::from_packed(at::zeros({1, 2}, at::kByte), 4, 2), c10::Error);
}

}  // namespace
}  // namespace core
