"""What a recipe is built of, and where it was published: BibTeX for the model card."""

from collections.abc import Mapping

BIBTEX = {
    "segformer": """@inproceedings{xie2021segformer,
  title = {{SegFormer}: Simple and Efficient Design for Semantic Segmentation with Transformers},
  author = {Xie, Enze and Wang, Wenhai and Yu, Zhiding and Anandkumar, Anima and Alvarez, Jose M. and Luo, Ping},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
  eprint = {2105.15203}, archivePrefix = {arXiv}
}""",
    "report": """@article{liu2022cv,
  title = {{CV} 3315 Is All You Need: Semantic Segmentation Competition},
  author = {Liu, Akide and Wang, Zihan},
  journal = {arXiv preprint arXiv:2206.12571},
  year = {2022}
}""",
    "kitti": """@inproceedings{geiger2012kitti,
  title = {Are we ready for Autonomous Driving? The {KITTI} Vision Benchmark Suite},
  author = {Geiger, Andreas and Lenz, Philip and Urtasun, Raquel},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2012}
}
@article{alhaija2018augmented,
  title = {Augmented Reality Meets Computer Vision: Efficient Data Generation for Urban Driving Scenes},
  author = {Abu Alhaija, Hassan and Mustikovela, Siva Karthik and Mescheder, Lars and Geiger, Andreas and
            Rother, Carsten},
  journal = {International Journal of Computer Vision},
  year = {2018}
}""",
    "cityscapes": """@inproceedings{cordts2016cityscapes,
  title = {The {Cityscapes} Dataset for Semantic Urban Scene Understanding},
  author = {Cordts, Marius and Omran, Mohamed and Ramos, Sebastian and Rehfeld, Timo and Enzweiler, Markus and
            Benenson, Rodrigo and Franke, Uwe and Roth, Stefan and Schiele, Bernt},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2016}
}""",
    "camvid": """@article{brostow2009camvid,
  title = {Semantic Object Classes in Video: A High-Definition Ground Truth Database},
  author = {Brostow, Gabriel J. and Fauqueur, Julien and Cipolla, Roberto},
  journal = {Pattern Recognition Letters},
  volume = {30}, number = {2}, pages = {88--97},
  year = {2009}
}""",
    "ohem": """@inproceedings{shrivastava2016ohem,
  title = {Training Region-based Object Detectors with Online Hard Example Mining},
  author = {Shrivastava, Abhinav and Gupta, Abhinav and Girshick, Ross},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2016},
  eprint = {1604.03540}, archivePrefix = {arXiv}
}""",
    "focal": """@inproceedings{lin2017focal,
  title = {Focal Loss for Dense Object Detection},
  author = {Lin, Tsung-Yi and Goyal, Priya and Girshick, Ross and He, Kaiming and Doll{\\'a}r, Piotr},
  booktitle = {IEEE International Conference on Computer Vision (ICCV)},
  year = {2017},
  eprint = {1708.02002}, archivePrefix = {arXiv}
}""",
    "dice": """@inproceedings{milletari2016vnet,
  title = {{V-Net}: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation},
  author = {Milletari, Fausto and Navab, Nassir and Ahmadi, Seyed-Ahmad},
  booktitle = {International Conference on 3D Vision (3DV)},
  year = {2016},
  eprint = {1606.04797}, archivePrefix = {arXiv}
}""",
    "lovasz": """@inproceedings{berman2018lovasz,
  title = {The {Lov{\\'a}sz}-Softmax Loss: A Tractable Surrogate for the Optimization of the
           Intersection-Over-Union Measure in Neural Networks},
  author = {Berman, Maxim and Rannen Triki, Amal and Blaschko, Matthew B.},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2018},
  eprint = {1705.08790}, archivePrefix = {arXiv}
}""",
    "effective_number": """@inproceedings{cui2019class,
  title = {Class-Balanced Loss Based on Effective Number of Samples},
  author = {Cui, Yin and Jia, Menglin and Lin, Tsung-Yi and Song, Yang and Belongie, Serge},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2019},
  eprint = {1901.05555}, archivePrefix = {arXiv}
}""",
    "enet": """@article{paszke2016enet,
  title = {{ENet}: A Deep Neural Network Architecture for Real-Time Semantic Segmentation},
  author = {Paszke, Adam and Chaurasia, Abhishek and Kim, Sangpil and Culurciello, Eugenio},
  journal = {arXiv preprint arXiv:1606.02147},
  year = {2016}
}""",
    "median_frequency": """@inproceedings{eigen2015predicting,
  title = {Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional Architecture},
  author = {Eigen, David and Fergus, Rob},
  booktitle = {IEEE International Conference on Computer Vision (ICCV)},
  year = {2015},
  eprint = {1411.4734}, archivePrefix = {arXiv}
}""",
    "boundary_iou": """@inproceedings{cheng2021boundary,
  title = {Boundary {IoU}: Improving Object-Centric Image Segmentation Evaluation},
  author = {Cheng, Bowen and Girshick, Ross and Doll{\\'a}r, Piotr and Berg, Alexander C. and Kirillov, Alexander},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2021},
  eprint = {2103.16562}, archivePrefix = {arXiv}
}""",
}  # fmt: skip
"""Key -> entries; keys are the words that recipes use."""


def choose_citations(recipe: Mapping, data: str | None, base: str | None, boundary: bool) -> list[str]:
    """Keys of `BIBTEX` of what a run used: SegFormer and the report always, then data, loss, weights and metric.

    Args:
        recipe: Options of the run.
        data: Key of a known data set.
        base: Name of the weights it started from.
        boundary: Whether boundary IoU was measured.
    """
    chosen = ["segformer", "report", data]
    chosen += ["cityscapes"] if "cityscapes" in (base or "").lower() else []
    chosen += [recipe.get("loss"), *(str(word).partition("=")[0] for word in recipe.get("add_losses") or [])]
    chosen += [recipe.get("class_weights")]
    chosen += ["boundary_iou"] if boundary else []
    return list(dict.fromkeys(key for key in chosen if key in BIBTEX))
