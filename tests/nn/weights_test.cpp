// Reading tensors: dtype, alignment, ownership, and the message of each way in which a checkpoint can be wrong.
#include "core/nn/weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/io/files.h"
#include "core/io/safetensors.h"
#include "core/nn/slot.h"

namespace {

namespace fs = std::filesystem;

class WeightsTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("refrain_weights_" + std::to_string(::getpid()));
    fs::create_directories(directory_);
    file_ = (directory_ / "model.safetensors").string();
  }
  void TearDown() override { fs::remove_all(directory_); }

  // Writes one file of these tensors and opens it.
  core::Weights open(const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                     at::ScalarType dtype = at::kFloat) {
    std::vector<core::TensorToWrite> list;
    for (const auto& [name, tensor] : tensors) {
      list.push_back({name, dtype_of(tensor), tensor.sizes().vec(), tensor.const_data_ptr()});
    }
    core::write_safetensors(file_, list);
    return core::Weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory_.string())), dtype,
                         at::kCPU);
  }

  static core::DType dtype_of(const at::Tensor& tensor) {
    switch (tensor.scalar_type()) {
      case at::kDouble:
        return core::DType::F64;
      case at::kHalf:
        return core::DType::F16;
      case at::kBFloat16:
        return core::DType::BF16;
      case at::kInt:
        return core::DType::I32;
      default:
        return core::DType::F32;
    }
  }

  template <typename Action>
  std::string message_of(Action action) {
    try {
      action();
    } catch (const core::UserError& error) {
      return error.what();
    }
    return "";
  }

  fs::path directory_;
  std::string file_;
};

constexpr at::ScalarType kStored[] = {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16};

at::Tensor numbers(at::IntArrayRef shape, at::ScalarType dtype) {
  return (at::arange(c10::multiply_integers(shape), at::kFloat) / 7 - 3).reshape(shape).to(dtype);
}

bool aligned(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 64 == 0; }

TEST_F(WeightsTest, EveryFloatDtypeReadsAsEveryComputeDtype) {
  for (at::ScalarType stored : kStored) {
    for (at::ScalarType compute : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const at::Tensor original = numbers({33, 1027}, stored) / 64;  // larger than one chunk
      const core::LoadedTensor loaded = open({{"w", original}}, compute).read("w", {33, 1027});
      EXPECT_TRUE(at::equal(loaded.tensor, original.to(compute))) << stored << " as " << compute;
      EXPECT_EQ(loaded.stored_bits, static_cast<int64_t>(original.element_size()) * 8);
      EXPECT_TRUE(aligned(loaded.tensor));
    }
  }
}

TEST_F(WeightsTest, AnAlignedTensorOfTheComputeDtypeIsNotCopied) {
  const core::Weights weights = open({{"w", numbers({16, 16}, at::kFloat)}});
  EXPECT_EQ(weights.read("w", {16, 16}).tensor.const_data_ptr(), weights.view("w")->data);
}

TEST_F(WeightsTest, AnUnalignedTensorIsCopied) {
  const core::Weights weights = open({{"a", numbers({3}, at::kFloat)}, {"b", numbers({5}, at::kFloat)}});
  for (const char* name : {"a", "b"}) {
    const at::Tensor tensor = weights.read(name, {*name == 'a' ? 3 : 5}).tensor;
    EXPECT_TRUE(aligned(tensor));
    EXPECT_TRUE(at::equal(tensor, numbers({tensor.numel()}, at::kFloat)));
  }
}

TEST_F(WeightsTest, ATensorAtAnOddByteReadsLikeAnyOther) {
  for (at::ScalarType stored : {at::kFloat, at::kBFloat16}) {
    const at::Tensor original = numbers({100, 41}, stored);
    const auto bytes = static_cast<size_t>(original.nbytes());
    std::string header = std::string("{\"w\":{\"dtype\":\"") + (stored == at::kFloat ? "F32" : "BF16") +
                         "\",\"shape\":[100,41],\"data_offsets\":[0," + std::to_string(bytes) + "]}}";
    if (header.size() % 2 == 0) header += " ";
    std::string file(8, '\0');
    file[0] = static_cast<char>(header.size());
    file += header + std::string(static_cast<const char*>(original.const_data_ptr()), bytes);
    core::write_atomically(file_, file);
    const core::Weights weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(file_)), at::kFloat,
                                at::kCPU);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(weights.view("w")->data) % 2, 1u);
    EXPECT_TRUE(at::equal(weights.read("w", {100, 41}).tensor, original.to(at::kFloat)));
  }
}

TEST_F(WeightsTest, AMappedTensorOutlivesItsCheckpoint) {
  at::Tensor tensor;
  {
    const core::Weights weights = open({{"w", numbers({64, 64}, at::kFloat)}});
    tensor = weights.read("w", {64, 64}).tensor;
    ASSERT_EQ(tensor.const_data_ptr(), weights.view("w")->data);
  }
  fs::remove(file_);
  EXPECT_TRUE(at::equal(tensor, numbers({64, 64}, at::kFloat)));
}

TEST_F(WeightsTest, BiasesAreOwned) {
  const core::Weights weights =
      open({{"p.weight", numbers({16, 16}, at::kFloat)}, {"p.bias", numbers({16}, at::kFloat)}});
  core::Slot slot("p", core::Role::q_proj, 16, 16, true);
  slot.load(weights);
  EXPECT_NE(slot.linear().bias().const_data_ptr(), weights.view("p.bias")->data);
}

TEST_F(WeightsTest, AnExpertOfAStreamedModelStaysInTheFile) {
  const core::Weights weights =
      open({{"p.weight", numbers({16, 32}, at::kBFloat16)}, {"p.bias", numbers({16}, at::kBFloat16)}});
  core::Slot resident("p", core::Role::up_proj, 16, 32, true), streamed("p", core::Role::up_proj, 16, 32, true);
  for (core::Slot* slot : {&resident, &streamed}) slot->set_stays_in_file(true);
  resident.load(weights);
  streamed.load(weights.streamed());
  const auto in_file = std::dynamic_pointer_cast<core::FiledLinear>(streamed.pointer());
  ASSERT_NE(in_file, nullptr);
  EXPECT_EQ(resident.in_memory(), resident.pointer());
  EXPECT_TRUE(in_file->parameters().empty()) << "it holds no tensor";
  EXPECT_NE(streamed.in_memory(), streamed.in_memory()) << "each read is a tensor of its own";
  const at::Tensor x = numbers({3, 32}, at::kFloat);
  EXPECT_TRUE(at::equal(streamed.forward(x), resident.forward(x)));
  ASSERT_EQ(streamed.state().size(), resident.state().size());
  for (size_t i = 0; i < streamed.state().size(); ++i) {
    EXPECT_EQ(streamed.state()[i].name, resident.state()[i].name);
    EXPECT_TRUE(at::equal(streamed.state()[i].tensor, resident.state()[i].tensor));
  }
  EXPECT_EQ(streamed.cost().dense_bits, resident.cost().dense_bits);
  EXPECT_EQ(streamed.cost().macs, resident.cost().macs);
}

TEST_F(WeightsTest, OtherLinearsOfAStreamedModelAreLoaded) {
  core::Slot slot("p", core::Role::up_proj, 16, 32, false);
  slot.load(open({{"p.weight", numbers({16, 32}, at::kBFloat16)}}).streamed());
  EXPECT_EQ(std::dynamic_pointer_cast<core::FiledLinear>(slot.pointer()), nullptr);
}

TEST_F(WeightsTest, AValueThatIsNotFiniteIsFound) {
  const float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  for (at::ScalarType stored : kStored) {
    for (float bad : {kNan, kInf, -kInf}) {
      at::Tensor tensor = numbers({128, 700}, at::kFloat) / 1000;
      tensor[97][511] = bad;  // the first of two
      tensor[98][0] = bad;
      const core::Weights weights = open({{"model.layers.0.mlp.up_proj.weight", tensor.to(stored)}});
      EXPECT_EQ(message_of([&] {
                  weights.read("model.layers.0.mlp.up_proj.weight", {128, 700});
                }),
                "model.layers.0.mlp.up_proj.weight: value at [97, 511] is not finite. Replace " + file_ +
                    ": it is damaged, or was saved from a model that had diverged.")
          << stored << " " << bad;
    }
  }
}

TEST_F(WeightsTest, AValueBeyondTheComputeDtypeIsNotFinite) {
  const core::Weights weights = open({{"w", at::full({2, 3}, 1e6)}}, at::kHalf);
  EXPECT_EQ(message_of([&] {
              weights.read("w", {2, 3});
            }),
            "w: value at [0, 0] is not finite. Replace " + file_ +
                ": it is damaged, or was saved from a model that had diverged.");
}

TEST_F(WeightsTest, AnotherShapeIsRefused) {
  const core::Weights weights = open({{"model.layers.0.mlp.up_proj.weight", numbers({96, 64}, at::kFloat)}});
  EXPECT_EQ(
      message_of([&] {
        weights.read("model.layers.0.mlp.up_proj.weight", {128, 64});
      }),
      file_ +
          ": model.layers.0.mlp.up_proj.weight is [96, 64], config.json asks for [128, 64]. Use the config.json that "
          "belongs to this file.");
}

TEST_F(WeightsTest, AnIntegerTensorIsRefused) {
  const core::Weights weights = open({{"w", at::ones({4}, at::kInt)}});
  EXPECT_EQ(message_of([&] { weights.check("w", {4}); }),
            file_ + ": w has dtype I32, not a float. Use the unquantized checkpoint.");
}

TEST_F(WeightsTest, AMissingTensorIsRefusedWithTheNearestName) {
  const core::Weights weights = open({{"model.norm.weight", numbers({4}, at::kFloat)}});
  EXPECT_EQ(message_of([&] { weights.check("model.norms.weight", {4}); }),
            directory_.string() + ": there is no tensor `model.norms.weight`. Did you mean `model.norm.weight`?");
}

}  // namespace
