#pragma once
#include <cstdint>

namespace phys4d {

// Triangles before a pinhole camera, and places in its image; all lengths in metres, in the camera's axes (z forward).
struct FirstFaces {
  const double* corners;   // [faces, 3, 3]
  const int64_t* numbers;  // [faces], ascending
  int64_t faces;
  const double* pixels;  // [places, 2], x and y
  int64_t places;
  double focal_x, focal_y, centre_x, centre_y;  // pixels
  int64_t height, width;                        // of the image
  double nearest;                               // the near plane's depth
};

// For each place the face that the ray through it hits first, in float64. `inverse` [places] holds one over the depth
// beyond which no face counts, 0 for none, and `face` [places] the number of the face at that depth, or -1; both are
// replaced where a face is nearer, or as near (to 1e-12) with a lower number. A hit lies in its triangle up to 1e-9 of
// the barycentric coordinates. The definition: phys4d/simulation/truth/query_grid.py.
void first_faces_cpu(const FirstFaces& scene, double* inverse, int64_t* face);

}  // namespace phys4d
