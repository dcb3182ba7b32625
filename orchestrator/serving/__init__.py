"""The model that comes out of a study: a folder that scores recordings without Ray and without the study."""
