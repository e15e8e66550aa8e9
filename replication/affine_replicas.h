// R affine dequantizers on one set of codes, averaged: ŵ = mean_r s_r (k − z_r), each on its own groups; or each with
// codes of its own. The strategy `scales` chooses their parameters.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "quant/grids/activation.h"
#include "quant/grids/affine.h"

namespace replication {

// How one replica differs from the plain grid.
struct Replica : core::Section {
  int64_t group_size = 64;
  double scale = 1.0;
  double zero_point = 0.0;
  double offset = 0.0;
  double noise = 0.0;
  quant::ActivationReplica activation;
  std::string rounding = "nearest";
  double clip = 1.0;
  bool fit = true;
  double jitter = 0.0;

  void keys(core::Keys& k) override;
  // A key by which its weight differs from that of others; empty: by none.
  std::string weight_override() const;

  quant::WeightConfig grouped(const quant::WeightConfig& base) const;  // with its own groups
  quant::WeightConfig config(const quant::WeightConfig& base) const;   // with all its overrides of the grid
  // Factor and shift, on parameters that are then stored as they are.
  quant::Parameters overridden(quant::Parameters own) const;
};

// The grids of R replicas, and their parameters as one list: those of replica r have names with its number.
class ReplicaGrids {
 public:
  ReplicaGrids(const quant::WeightConfig& weight, const quant::Place& place, std::vector<Replica> replicas,
               int64_t in_features);

  size_t size() const { return grids_.size(); }
  const quant::AffineGrid& grid(size_t r) const { return *grids_[r]; }
  const Replica& replica(size_t r) const { return replicas_[r]; }

  int64_t refinement() const;  // columns of the largest group that all replicas' groups are made of
  // Adds those of replica r, under names with its number.
  static void add(quant::Parameters& all, quant::Parameters own, size_t r);
  quant::Parameters of(const quant::Parameters& all, size_t r) const;  // those of replica r, under their own names
  // The mean over the replicas of every parameter, as the plain grid stores it. Replicas differ in neither groups nor
  // offset.
  quant::Parameters mean(const quant::Parameters& all) const;

  quant::Parameters layout(int64_t O, int64_t I) const;
  // The mean of what the replicas decode, each with its noise. codes_of: [O, I] of replica r.
  at::Tensor decode(const quant::Parameters& parameters, const std::function<at::Tensor(size_t r)>& codes_of) const;
  // Of replica r on the refinement, its scale divided by R: the weight is the sum of these.
  quant::ElementGrid part(const quant::Parameters& parameters, size_t r, int64_t O, int64_t I) const;
  // Of the mean: its scale and shift on the common refinement of the groups.
  quant::ElementGrid mean_grid(const quant::Parameters& parameters, int64_t O, int64_t I) const;

 private:
  at::Tensor noise(const quant::Parameters& parameters, size_t r, const at::Tensor& codes) const;

  quant::Place place_;
  std::vector<Replica> replicas_;
  std::vector<std::shared_ptr<quant::AffineGrid>> grids_;
  int64_t in_features_;
};

// The replicas on one set of codes.
class ReplicaFormat : public quant::ElementFormat {
 public:
  ReplicaFormat(const quant::WeightConfig& weight, const quant::Place& place, std::vector<Replica> replicas,
                int64_t in_features, core::Node description);

  std::string name() const override { return "scales"; }
  int64_t groups(int64_t in_features) const override { return replicas_.grid(0).groups(in_features); }
  core::Node replication() const override { return description_; }
  int64_t macs(int64_t O, int64_t I) const override { return O * I * static_cast<int64_t>(replicas_.size()); }

  quant::Parameters fit(const at::Tensor& w, const quant::Statistics& x) const override;
  quant::Encoded encode(const at::Tensor& w, quant::Parameters parameters) const override;
  quant::Parameters layout(int64_t O, int64_t I) const override { return replicas_.layout(O, I); }
  at::Tensor decode(const at::Tensor& codes, const quant::Parameters& parameters) const override;
  quant::ElementGrid element_grid(const quant::Parameters& parameters, int64_t O, int64_t I) const override {
    return replicas_.mean_grid(parameters, O, I);
  }
  // R grids, so that the replicas cost what they cost while they are not fused. None where they have noise.
  std::optional<quant::PackedForm> packed_form(const quant::Parameters& parameters, int64_t O,
                                               int64_t I) const override;

  const ReplicaGrids& replicas() const { return replicas_; }

 private:
  ReplicaGrids replicas_;
  core::Node description_;
};

// Every replica with codes of its own, the first in the lowest bits of what is stored: R b bits. The codes of a weight
// are chosen together, so that methods treat them as those of a sequence.
class OwnCodesFormat : public quant::SequenceFormat {
 public:
  OwnCodesFormat(const quant::WeightConfig& weight, const quant::Place& place, std::vector<Replica> replicas,
                 int64_t in_features, core::Node description);

  std::string name() const override { return "scales"; }
  int64_t code_bits() const override { return config().bits * static_cast<int64_t>(replicas_.size()); }
  int64_t groups(int64_t in_features) const override { return replicas_.grid(0).groups(in_features); }
  quant::Needs needs() const override;
  core::Node replication() const override { return description_; }
  int64_t macs(int64_t O, int64_t I) const override { return O * I * static_cast<int64_t>(replicas_.size()); }

  quant::Parameters fit(const at::Tensor& w, const quant::Statistics& x) const override;
  quant::Encoded encode(const at::Tensor& w, quant::Parameters parameters) const override;
  quant::Parameters layout(int64_t O, int64_t I) const override { return replicas_.layout(O, I); }
  at::Tensor decode(const at::Tensor& codes, const quant::Parameters& parameters) const override;
  quant::EncodedColumns encode_columns(const at::Tensor& w, const quant::Parameters& parameters, int64_t first,
                                       int64_t in_features) const override;
  at::Tensor noise_scale(const quant::Parameters& parameters, int64_t O, int64_t I) const override {
    return replicas_.mean_grid(parameters, O, I).scale;
  }

 private:
  int64_t shift(size_t r) const { return config().bits * static_cast<int64_t>(r); }
  at::Tensor codes_of(const at::Tensor& codes, size_t r) const;

  ReplicaGrids replicas_;
  core::Node description_;
};

}  // namespace replication
