// The nearest triangle at every place of an image: places are sorted into the cells of the pixel grid, then each
// triangle visits the cells of its bounds. Homogeneous edge functions (Olano and Greer 1997) need no clipping.
#include "first_faces.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace phys4d {
namespace {

constexpr double kInside = 1e-9, kEqual = 1e-12, kMargin = 1e-6;

struct Vector {
  double x, y, z;
};

Vector cross(const Vector& p, const Vector& q) {
  return {p.y * q.z - p.z * q.y, p.z * q.x - p.x * q.z, p.x * q.y - p.y * q.x};
}

double dot(const Vector& p, const Vector& q) { return p.x * q.x + p.y * q.y + p.z * q.z; }

struct Bounds {
  double low_x = std::numeric_limits<double>::infinity(), low_y = low_x, high_x = -low_x, high_y = -low_x;

  void include(const FirstFaces& scene, const Vector& point) {
    const double x = point.x / point.z * scene.focal_x + scene.centre_x;
    const double y = point.y / point.z * scene.focal_y + scene.centre_y;
    low_x = std::min(low_x, x), high_x = std::max(high_x, x);
    low_y = std::min(low_y, y), high_y = std::max(high_y, y);
  }
};

// Bounds in the image of the triangle's part beyond the near plane.
Bounds bounds_of(const FirstFaces& scene, const Vector* corner) {
  Bounds bounds;
  for (int i = 0; i < 3; ++i) {
    const Vector &p = corner[i], &q = corner[(i + 1) % 3];
    if (p.z >= scene.nearest) bounds.include(scene, p);
    if ((p.z >= scene.nearest) == (q.z >= scene.nearest)) continue;
    const double share = (scene.nearest - p.z) / (q.z - p.z);
    bounds.include(scene, {p.x + share * (q.x - p.x), p.y + share * (q.y - p.y), scene.nearest});
  }
  return bounds;
}

// The places in the order of their cells, row by row.
struct Cells {
  std::vector<int64_t> start, order;
  std::vector<double> x, y, inverse;
  std::vector<int64_t> face;

  Cells(const FirstFaces& scene, const double* limits, const int64_t* faces)
      : start(scene.height * scene.width + 1, 0), order(scene.places), x(scene.places), y(scene.places),
        inverse(scene.places), face(scene.places) {
    std::vector<int64_t> cell(scene.places);
    for (int64_t i = 0; i < scene.places; ++i) {
      const auto column = std::min(static_cast<int64_t>(scene.pixels[2 * i]), scene.width - 1);
      const auto row = std::min(static_cast<int64_t>(scene.pixels[2 * i + 1]), scene.height - 1);
      cell[i] = row * scene.width + column;
      ++start[cell[i] + 1];
    }
    for (size_t c = 1; c < start.size(); ++c) start[c] += start[c - 1];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < scene.places; ++i) {
      const int64_t k = next[cell[i]]++;
      order[k] = i;
      x[k] = (scene.pixels[2 * i] - scene.centre_x) / scene.focal_x;
      y[k] = (scene.pixels[2 * i + 1] - scene.centre_y) / scene.focal_y;
      inverse[k] = limits[i], face[k] = faces[i];
    }
  }
};

}  // namespace

void first_faces_cpu(const FirstFaces& scene, double* inverse, int64_t* face) {
  Cells cells(scene, inverse, face);
  for (int64_t f = 0; f < scene.faces; ++f) {
    Vector corner[3];
    for (int i = 0; i < 3; ++i) {
      const double* p = scene.corners + 9 * f + 3 * i;
      corner[i] = {p[0], p[1], p[2]};
    }
    const Bounds bounds = bounds_of(scene, corner);
    if (!(bounds.high_x >= -kMargin && bounds.high_y >= -kMargin && bounds.low_x <= scene.width + kMargin &&
          bounds.low_y <= scene.height + kMargin)) {
      continue;
    }
    const auto clamped = [](double value, int64_t size) {
      return static_cast<int64_t>(std::clamp(std::floor(value), 0.0, static_cast<double>(size - 1)));
    };
    const int64_t left = clamped(bounds.low_x - kMargin, scene.width);
    const int64_t right = clamped(bounds.high_x + kMargin, scene.width);
    const int64_t top = clamped(bounds.low_y - kMargin, scene.height);
    const int64_t bottom = clamped(bounds.high_y + kMargin, scene.height);
    Vector edge[3] = {cross(corner[1], corner[2]), cross(corner[2], corner[0]), cross(corner[0], corner[1])};
    const double volume = dot(corner[0], edge[0]);
    for (Vector& e : edge) e = {e.x / volume, e.y / volume, e.z / volume};
    const Vector plane = {edge[0].x + edge[1].x + edge[2].x, edge[0].y + edge[1].y + edge[2].y,
                          edge[0].z + edge[1].z + edge[2].z};
    const double most = 1 / scene.nearest;
    for (int64_t row = top; row <= bottom; ++row) {
      const int64_t end = cells.start[row * scene.width + right + 1];
      for (int64_t k = cells.start[row * scene.width + left]; k < end; ++k) {
        const Vector direction = {cells.x[k], cells.y[k], 1};
        const double here = dot(plane, direction), limit = cells.inverse[k];
        if (!(here >= limit * (1 - kEqual) && here < most)) continue;  // also where a face is seen edge-on: NaN
        const double outside = -kInside * here;
        if (!(dot(edge[0], direction) >= outside && dot(edge[1], direction) >= outside &&
              dot(edge[2], direction) >= outside)) {
          continue;
        }
        if (here > limit * (1 + kEqual) || scene.numbers[f] < cells.face[k]) {
          cells.inverse[k] = here, cells.face[k] = scene.numbers[f];
        }
      }
    }
  }
  for (int64_t k = 0; k < scene.places; ++k) {
    inverse[cells.order[k]] = cells.inverse[k];
    face[cells.order[k]] = cells.face[k];
  }
}

}  // namespace phys4d
