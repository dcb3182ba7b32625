"""The science of the report, free of disk, Ray and MLflow: every number here can be checked by hand."""
